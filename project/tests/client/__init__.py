"""Tests of clients/python, which is imported from its folder: nothing has to be installed."""

import sys

from project.tests.processes import ROOT

sys.path.insert(0, str(ROOT / "clients" / "python"))
