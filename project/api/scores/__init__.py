"""Scores: which learner solved which exercise."""
