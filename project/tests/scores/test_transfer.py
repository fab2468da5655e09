"""Scores out of files and into files: what is a file, what becomes of a line, and nothing lost."""

import gzip
import itertools
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import unittest
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner
from flask.cli import ScriptInfo
from sqlalchemy import text

from manage import cli
from project import db
from project.api.scores import queries, totals, transfer
from project.api.scores.queries import NewAttempt
from project.tests.base import ADMIN, BaseTestCase, database_url, empty_tables
from project.tests.processes import GRACE_SECONDS, ROOT, environment, wait_until
from project.tests.utils import add_score

HEADER = "id,user_id,exercise_id,correct,attempts,correct_attempts,solved_at,created_at,updated_at"
AT = "2026-11-20T08:30:00.123456+00:00"
LATER = "2026-11-20T09:30:00+00:00"
SCORE = {
    "id": "5",
    "user_id": "1",
    "exercise_id": "2",
    "correct": "true",
    "attempts": "3",
    "correct_attempts": "1",
    "solved_at": AT,
    "created_at": AT,
    "updated_at": LATER,
}


# An import that is about to reserve its ids.
RESERVING = """
    SELECT FROM pg_stat_activity WHERE query LIKE 'ALTER SEQUENCE%' AND wait_event_type = 'Lock'
"""


def score(**cells):
    """Return a line of a score that differs in these cells from a good one."""
    return ",".join((SCORE | cells).values())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class TransferTestCase(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def tearDown(self):
        self.assertEqual(totals.select_differences(), [])
        super().tearDown()

    def manage(self, *arguments, **options):
        runner = CliRunner()
        return runner.invoke(cli, arguments, obj=ScriptInfo(create_app=lambda: self.app), **options)

    def file(self, *lines, name="scores.csv"):
        path = self.folder / name
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    def load(self, *lines, name="scores.csv", options=(), code=0):
        """Import lines; return what was said."""
        result = self.manage("import_scores", str(self.file(*lines, name=name)), *options)
        self.assertEqual(result.exit_code, code, result.output)
        return result.output

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def export(self, name="out.csv"):
        path = self.folder / name
        result = self.manage("export_scores", str(path))
        self.assertEqual(result.exit_code, 0, result.output)
        return path.read_bytes()

    def sql(self, statement):
        with db.engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else None

    def scores(self):
        return self.sql("SELECT user_id, exercise_id, correct FROM scores ORDER BY 1, 2")

    def attempts(self):
        return self.sql("SELECT user_id, seq, correct, actor FROM attempts ORDER BY 1, 2")


class TestForms(TransferTestCase):
    def test_of_answers_may_be_any_format(self):
        rows = '{"user_id": 1, "exercise_id": 2, "correct": true}'
        for name, lines in [
            ("a.csv", ["user_id,exercise_id,correct", "1,2,true"]),
            ("b.csv.gz", ["user_id,exercise_id,correct", "1,2,true", ""]),
            ("c.CSV", ["\ufeffcorrect,exercise_id,user_id\r", "true,2,1\r", "\r"]),
            ("d.csv", ["# why", "", '"user_id","exercise_id","correct"', "# no", '"1","2","true"']),
            ("e.jsonl", [rows]),
            ("f.ndjson", ["\ufeff" + rows + "\r", "", "# no"]),
            ("g.jsonl.gz", [rows]),
            ("h.csv", ["user_id,exercise_id,correct,at", "1,2,true,"]),
        ]:
            with self.subTest(name):
                empty_tables()

                said = self.load(*lines, name=name)

                self.assertEqual(
                    said,
                    "1 lines: 1 new and 0 changed scores, 0 lines without effect, 0 refused.\n",
                )
                self.assertEqual(self.scores(), [(1, 2, True)])
                self.assertEqual(self.attempts(), [(1, 1, True, None)])

    def test_tell_by_option_what_the_name_does_not(self):
        path = self.file("user_id,exercise_id,correct", "1,2,true", name="scores.txt")

        refused = self.manage("import_scores", str(path))
        done = self.manage("import_scores", str(path), "--format", "csv")

        self.assertEqual((refused.exit_code, done.exit_code), (2, 0))
        self.assertIn("--format", refused.output)

    def test_come_from_standard_input(self):
        lines = '{"user_id": 1, "exercise_id": 2, "correct": false, "at": null}\n'

        result = self.manage("import_scores", "-", "--format", "jsonl", input=lines)

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.scores(), [(1, 2, False)])

    def test_are_refused_in_one_sentence_where_they_are_others(self):
        for lines, sentence in [
            ([], "The file has no header line: name the columns in its first line."),
            (["user_id,exercise_id"], "Line 1: The column correct is missing: add it."),
            (["", "user_id,exercise_id,correct,colour"], "Line 2: Unknown column 'colour': the "),
            (
                ["7,12,true"],
                "Unknown column '7': the columns are user_id, exercise_id, correct, at",
            ),
            (["user_id,exercise_id,correct,Correct"], "The column correct appears twice"),
            (["id,user_id,exercise_id,correct"], "The column attempts is missing"),
            ([HEADER + ",at"], "Unknown column 'at'"),
            (["user_id^exercise_id^correct"], "Unknown column"),
            (["user_id,,exercise_id,correct"], "Unknown column ''"),
            (["user_id,exercise_id,cor\x00rect"], r"Unknown column 'cor\x00rect'"),
            (['"user_id,exercise_id'], "Line 1: Write each row on one line and close its quotes"),
            (["user_id,exercise_id,correct", "y" * (3 << 20)], "longer than a megabyte"),
        ]:
            with self.subTest(sentence):
                said = self.load(*lines, code=1)

                self.assertIn(sentence, said)
                self.assertEqual(len(said.splitlines()), 1, said)

    def test_first_line_of_json_is_rejected_in_one_sentence(self):
        for line, sentence in [
            ("[1]", "Line 1: Write one whole JSON object on each line."),
            ("{", "Line 1: Write one whole JSON object on each line (Expecting property name"),
            ("[" * 5000, "Line 1: Write one whole JSON object on each line."),
            ('{"user_id": 1, "user_id": 2, "exercise_id": 1, "correct": true}', "appears twice"),
            ('{"user_id": 1, "exercise_id": 1, "correct": true, "why": 1}', "Unknown column 'why'"),
        ]:
            with self.subTest(line[:70]):
                said = self.load(line, name="scores.jsonl", code=1)

                self.assertIn(sentence, said)
                self.assertEqual(len(said.splitlines()), 1, said)

    def test_without_lines_change_nothing(self):
        for name, lines in [("a.csv", [HEADER]), ("b.jsonl", []), ("c.jsonl.gz", [])]:
            with self.subTest(name):
                self.assertIn("0 lines: 0 new", self.load(*lines, name=name))


class TestSpreadsheets(TransferTestCase):
    """Files as spreadsheets and other programs write them."""

    HEADER = "user_id,exercise_id,correct"

    def assert_imported(self, content, expected=((1, 2, True), (3, 4, False)), name="scores.csv"):
        empty_tables()
        path = self.folder / name
        path.write_bytes(content)

        result = self.manage("import_scores", str(path))

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.scores(), list(expected))

    def test_import_accepts_truth_as_spreadsheets_write_it(self):
        for true, false in [
            ("TRUE", "FALSE"), ("True", "False"), ("tRUE", "fALSE"), ("1", "0"), ("yes", "no"),
            ("Yes", "NO"), ("t", "f"), ('"TRUE"', '"FALSE"'),
        ]:  # fmt: skip
            with self.subTest(true):
                self.assert_imported(f"{self.HEADER}\n1,2,{true}\n3,4,{false}\n".encode())

    def test_import_accepts_column_names_with_spaces_around_and_in_any_case(self):
        for header in ("User_ID,EXERCISE_ID,Correct", " user_id , exercise_id,\tcorrect ",
                       '"user_id", "Exercise_Id", "correct"'):  # fmt: skip
            with self.subTest(header):
                self.assert_imported(f"{header}\n1,2,true\n3,4,false\n".encode())

    def test_import_ignores_spaces_around_cells(self):
        self.assert_imported(f'{self.HEADER}\n1, 2, true\n3 ,"4 ",false\u00a0\n'.encode())

    def test_import_detects_the_delimiter(self):
        for mark in (",", ";", "\t", "|"):
            for first in ("", f"sep={mark}\r\n", f'"SEP={mark}"\n'):
                with self.subTest(mark, first=first):
                    rows = f"{self.HEADER}\n1,2,TRUE\n3,4,no\n".replace(",", mark)
                    self.assert_imported((first + rows).encode())

    def test_import_accepts_every_line_end(self):
        rows = f"{self.HEADER}\n1,2,true\n\n3,4,no\n"
        for end in ("\n", "\r\n", "\r"):
            for last in ("", end, end + "\x1a"):
                for mark in ("", "\ufeff"):
                    with self.subTest(end=end, last=last, mark=mark):
                        content = mark + rows.strip().replace("\n", end) + last
                        self.assert_imported(content.encode())
        objects = '{"user_id":1,"exercise_id":2,"correct":true}\r'
        self.assert_imported(objects.encode(), [(1, 2, True)], "scores.jsonl")

    def test_import_counts_lines_across_its_blocks(self):
        """A line end that lies on the border of two blocks is one."""
        for end in ("\r\n", "\r", "\n"):
            for shift in range(-4, 5):
                with self.subTest(end=end, shift=shift):
                    padding = "#" * (transfer.BLOCK - len(self.HEADER) - 2 * len(end) + shift)
                    lines = [self.HEADER, padding, "0,1,true", ""]
                    path = self.folder / "scores.csv"
                    path.write_bytes(end.join(lines).encode())

                    result = self.manage("import_scores", str(path))

                    self.assertIn("line 3: user_id: ", result.output)

    def test_import_skips_rows_of_empty_cells(self):
        self.assert_imported(f'{self.HEADER}\n1,2,true\n,,\n3,4,0\n"","",""\n , ;\n'.encode())

    def test_import_ignores_empty_cells_after_the_last_column(self):
        self.assert_imported(f"{self.HEADER},,\n1,2,true,,\n3,4,false,\n".encode())

    def test_import_detects_gzip_by_content(self):
        rows = f"{self.HEADER}\n1,2,true\n3,4,false\n".encode()
        self.assert_imported(rows, name="scores.csv.gz")
        self.assert_imported(gzip.compress(rows))
        self.assert_imported(gzip.compress(rows[:30]) + gzip.compress(rows[30:]))

    def test_import_names_a_damaged_archive(self):
        packed = gzip.compress(f"{self.HEADER}\n1,2,true\n".encode())
        for damaged in (packed[:-9], packed + b"more", packed[:12] + b"\xff" * 20):
            with self.subTest(damaged):
                path = self.folder / "scores.csv.gz"
                path.write_bytes(damaged)

                result = self.manage("import_scores", str(path))

                self.assertEqual(result.exit_code, 1)
                self.assertRegex(result.output, r"^Error: The gzip file is damaged \(.*was\.\n$")

    def test_import_names_what_a_file_is_instead_of_csv(self):
        text = f"{self.HEADER}\n1,2,true\n"
        for content, sentence in [
            (text.encode("utf-16"), "The file is text in UTF-16: save it as CSV UTF-8."),
            (text.encode("utf-16-le"), "UTF-16"),
            (text.encode("utf-16-be"), "UTF-16"),
            (b"PK\x03\x04\x14\x00", "an Excel workbook or a zip archive: save it as CSV UTF-8."),
            (b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel workbook: save it as CSV UTF-8."),
        ]:
            with self.subTest(content):
                path = self.folder / "scores.csv"
                path.write_bytes(content)

                result = self.manage("import_scores", str(path))

                self.assertEqual(result.exit_code, 1)
                self.assertIn(sentence, result.output)
                self.assertEqual(len(result.output.splitlines()), 1)

    def test_import_reports_a_cell_with_a_line_break_on_its_own_lines(self):
        said = self.load(self.HEADER, '1,1,"true', '",', "2,1,x", code=1)

        self.assertRegex(said, "line 2: Write each row on one line and close its quotes")
        self.assertRegex(said, "line 4: correct: ")

    def test_import_accepts_json_without_keys_that_are_null(self):
        answer = '{"user_id": 1, "exercise_id": 2, "correct": true'
        score = SCORE | {"solved_at": None, "correct_attempts": 0, "correct": False} | {
            name: int(SCORE[name]) for name in ("id", "user_id", "exercise_id", "attempts")
        }  # fmt: skip
        for first, second in [
            ("", f', "at": "{AT}"'),
            (f', "at": "{AT}"', ""),
            ("", ', "at":null'),
        ]:
            with self.subTest(first, second=second):
                lines = answer + first + "}", answer.replace("1", "3") + second + "}"
                self.assert_imported(
                    "\n".join(lines).encode(), [(1, 2, True), (3, 2, True)], "scores.jsonl"
                )
        lines = score, {name: score[name] for name in score.keys() - {"id", "solved_at"}} | {
            "user_id": 3
        }  # fmt: skip
        self.assert_imported(
            "\n".join(map(json.dumps, lines)).encode(),
            [(1, 2, False), (3, 2, False)],
            "scores.jsonl",
        )


class TestBounds(TransferTestCase):
    """What the service counts up later must not leave 64 bits."""

    def test_import_rejects_ids_that_leave_no_room_for_new_ones(self):
        for score_id in (2**62 + 1, 2**63 - 2, 2**63 - 1):
            said = self.load(HEADER, score(id=str(score_id)), code=1)

            self.assertIn("line 2: id: write a whole number from 1 to 4611686018427387904", said)

    def test_new_scores_follow_the_largest_imported_id(self):
        self.load(HEADER, score(id=str(2**62)))

        answers = [
            self.client.post("/scores", json={"exercise_id": n, "correct": True}, headers=ADMIN)
            for n in (1, 2)
        ]

        self.assertEqual([answer.status_code for answer in answers], [201, 201])
        self.assertEqual(
            [answer.get_json()["data"]["id"] for answer in answers], [2**62 + 1, 2**62 + 2]
        )

    def test_import_rejects_attempts_whose_sum_could_overflow(self):
        for cells in ({"attempts": "1000000001"}, {"correct_attempts": str(2**63 - 1)}):
            said = self.load(HEADER, score(**cells), code=1)

            self.assertRegex(said, f"line 2: {min(cells)}: write a whole number from . to 10{{9}}")

    def test_statistics_count_on_from_the_most_attempts(self):
        most = {"attempts": "1000000000", "correct_attempts": "999999999"}
        self.load(HEADER, *(score(id=str(n), user_id=str(n), **most) for n in range(1, 11)))
        self.load(HEADER, score(id="11", user_id="998877", **most))

        self.client.patch("/scores", json={"exercise_id": 2, "correct": False}, headers=ADMIN)
        stats = self.client.get("/scores/exercise/2/stats").get_json()["data"]
        progress = self.client.get("/scores/user/progress", headers=ADMIN).get_json()["data"]

        self.assertEqual(stats["attempts"], 11 * 10**9 + 1)
        self.assertEqual(progress["attempts"], 10**9 + 1)


class TestFuture(TransferTestCase):
    def test_import_rejects_times_in_the_future_with_line_numbers(self):
        now = datetime.now(UTC)
        late, soon = ((now + timedelta(minutes=minutes)).isoformat() for minutes in (6, 4))

        answers = self.load(
            "user_id,exercise_id,correct,at",
            f"1,1,true,{soon}",
            f"2,1,true,{late}",
            "3,1,true,9999-12-31T23:59:59Z",
            code=1,
        )
        scores = self.load(
            HEADER,
            score(solved_at=late),
            score(id="6", user_id="3", updated_at=late),
            score(id="7", user_id="4", created_at=late, updated_at=late),
            score(id="8", user_id="5", updated_at=soon),
            code=1,
        )

        self.assertEqual(
            answers,
            "line 3: at: write a time that is not in the future\n"
            "line 4: at: write a time that is not in the future\n"
            "2 of 3 lines are refused; nothing is written.\n",
        )
        self.assertRegex(scores, "line 2: .*solved_at: write a time that is not in the future")
        self.assertRegex(scores, "line 3: updated_at: write a time that is not in the future")
        self.assertRegex(scores, "line 4: created_at: .*; updated_at: write a time that is not")
        self.assertIn("3 of 4 lines are refused", scores)


class TestBadLines(TransferTestCase):
    def assert_refused(self, reason, *lines, name="scores.csv", number=2):
        said = self.load(*lines, name=name, code=1)
        self.assertRegex(said, rf"(?m)^line {number}: {reason}")
        self.assertIn("nothing is written", said)

    def test_of_csv_are_named_by_number_and_reason(self):
        for cells, reason in [
            ({"user_id": "0"}, "user_id: write a whole number from 1 to 9223372036854775807"),
            ({"user_id": "+1"}, "user_id: "),
            ({"user_id": "1.0"}, "user_id: "),
            ({"user_id": "1.0E+10"}, "user_id: "),
            ({"user_id": "'1"}, "user_id: "),
            ({"user_id": '"=""1"""'}, "user_id: "),
            ({"user_id": '"1,234"'}, "user_id: "),
            ({"user_id": "\u0661"}, "user_id: "),
            ({"user_id": ""}, "user_id: "),
            ({"user_id": "9223372036854775808"}, "user_id: "),
            ({"correct": "maybe"}, "correct: write true or false"),
            ({"correct": "2"}, "correct: write true or false"),
            ({"correct": ""}, "correct: write true or false"),
            ({"created_at": ""}, "created_at: write a time with its offset from UTC, like 2026-"),
            ({"solved_at": "x"}, "solved_at: write a time .*Z, or leave it out"),
            ({"created_at": "11/20/2026 8:30"}, "created_at: "),
            ({"created_at": "2026-02-20T24:00:00Z"}, "created_at: "),
            ({"created_at": "2026-02-20T23:59:60Z"}, "created_at: "),
            ({"created_at": "2026-02-20"}, "created_at: "),
            ({"created_at": "2026-02-20T00:00:00+0100"}, "created_at: "),
            ({"created_at": "2026-02-30T00:00:00Z"}, "created_at: "),
            ({"created_at": "2026-02-20T00:00:00"}, "created_at: "),
            ({"created_at": "2026-02-20 00:00:00Z"}, "created_at: "),
            ({"created_at": "2026-02-20T00:00:00+20:00"}, "created_at: "),
            ({"created_at": "0001-01-01T00:00:00+01:00"}, "created_at: write a time from the year"),
            ({"attempts": "0"}, "attempts: write a whole number from 1"),
            ({"correct_attempts": "4"}, "correct_attempts: write at most attempts"),
            ({"correct_attempts": "0", "solved_at": ""}, "correct_attempts: write at least 1"),
            ({"correct_attempts": "3", "correct": "false"}, "correct_attempts: write less than"),
            ({"solved_at": ""}, "solved_at: write a time if correct_attempts is not 0"),
            ({"updated_at": "2026-11-20T08:29:59Z"}, "updated_at: write created_at or a later"),
            ({"user_id": "x", "exercise_id": "y"}, "user_id: .*; exercise_id: "),
            ({"updated_at": LATER + ",1"}, "Write 9 cells, one for each column: these are 10"),
            ({"updated_at": '"' + LATER}, "Write each row on one line and close its quotes"),
            ({"updated_at": f'"{LATER}"x'}, "Write each row on one line and close its quotes"),
            ({"user_id": "\x00"}, "user_id: "),
        ]:
            with self.subTest(cells):
                self.assert_refused(reason, HEADER, score(**cells))

    def test_of_json_are_named_by_number_and_reason(self):
        first = '{"user_id": 1, "exercise_id": 2, "correct": true}'
        for line, reason in [
            ("{", "Write one whole JSON object on each line"),
            ("[]", "Write one whole JSON object on each line"),
            ("[" * 5000, "Write one whole JSON object on each line"),
            (first * 2, "Write one whole JSON object on each line"),
            (first + ",", "Write one whole JSON object on each line"),
            (
                '{"user_id": 1, "exercise_id": 3, "correct": true, "correct": false}',
                "A key appears",
            ),
            (
                '{"user_id": "1", "exercise_id": 3, "correct": true}',
                "user_id: write a whole number",
            ),
            ('{"user_id": true, "exercise_id": 3, "correct": true}', "user_id: "),
            ('{"user_id": 1.0, "exercise_id": 3, "correct": true}', "user_id: "),
            ('{"user_id": NaN, "exercise_id": 3, "correct": true}', "user_id: "),
            ('{"user_id": 1, "exercise_id": 3, "correct": null}', "correct: write true or false"),
            ('{"user_id": 1, "exercise_id": 3, "correct": 1}', "correct: write true or false"),
            ('{"user_id": 1, "exercise_id": 3, "correct": "true"}', "correct: write true or false"),
            ('{"user_id": 1, "exercise_id": 3}', "correct: write true or false"),
            ('{"user_id": 1, "exercise_id": 3, "correct": true, "id": 4}', "Unknown column 'id'"),
            ('{"user_id": 1, "exercise_id": 3, "correct": true, "\\ud800": 1}', "Unknown column"),
        ]:
            with self.subTest(line[:70]):
                self.assert_refused(reason, first, line, name="scores.jsonl")

    def test_are_those_that_repeat_a_pair_or_an_id(self):
        self.assert_refused(
            "user_id, exercise_id: Line 2 has the same", HEADER, score(), score(id="6"), number=3
        )
        self.assert_refused(
            "id: Line 2 has the same", HEADER, score(), score(user_id="7"), number=3
        )

    def test_are_those_whose_id_is_anothers_here(self):
        add_score(user_id=7, exercise_id=7)

        self.assert_refused("id: It is that of user 7 and exercise 7", HEADER, score(id="1"))
        self.assert_refused(
            "id: The score of this user and exercise has the id 1",
            HEADER,
            score(user_id="7", exercise_id="7"),
        )

    def test_that_are_not_utf_8_are_bad(self):
        path = self.folder / "scores.csv"
        path.write_bytes(HEADER.encode() + b"\n\xff\xfe\n")

        result = self.manage("import_scores", str(path))

        self.assertIn("line 2: The line is not UTF-8", result.output)

    def test_leave_everything_unwritten_and_twenty_are_named(self):
        lines = ["user_id,exercise_id,correct", "1,1,true", *["0,1,true"] * 30]

        said = self.load(*lines, code=1)

        self.assertEqual(said.count("user_id: "), 20)
        self.assertIn("30 of 31 lines are refused; nothing is written.", said)
        self.assertEqual(self.scores(), [])
        self.assertEqual(list(self.folder.glob("*.rejected")), [])

    def test_in_a_broken_archive_leave_everything_unwritten(self):
        path = self.file("user_id,exercise_id,correct", "1,1,true", name="scores.csv.gz")
        path.write_bytes(path.read_bytes()[:-9])

        result = self.manage("import_scores", str(path))

        self.assertEqual(result.exit_code, 1, result.output)
        self.assertEqual(self.scores(), [])


class TestSkipInvalid(TransferTestCase):
    def test_writes_the_others_and_leaves_the_bad_ones_to_be_mended(self):
        lines = [HEADER, score(), score(id="6", user_id="x"), "", score(id="7", attempts="0")]

        said = self.load(*lines, score(id="8"), options=["--skip-invalid"], code=1)

        rejected = (self.folder / "scores.csv.rejected").read_text().splitlines()
        self.assertIn(
            "4 lines: 1 new and 0 changed scores, 0 lines without effect, 3 refused.", said
        )
        self.assertIn(f"The refused lines are in {self.folder}/scores.csv.rejected:", said)
        self.assertEqual(rejected[0], HEADER)
        self.assertRegex(rejected[1], "^# line 3: user_id: write a whole number")
        self.assertEqual(rejected[2], lines[2])
        self.assertRegex(rejected[3], "^# line 5: attempts: ")
        self.assertEqual(rejected[4], lines[4])
        self.assertRegex(rejected[5], "^# line 6: user_id, exercise_id: Line 2 has the same")

        mended = (
            "\n".join(rejected[:5]).replace("6,x,", "6,9,").replace("7,1,2,true,0", "7,10,2,true,2")
        )
        said = self.load(mended, name="scores.csv.rejected")

        self.assertIn("2 lines: 2 new", said)
        self.assertEqual([user_id for user_id, *_ in self.scores()], [1, 9, 10])

    def test_rejected_file_is_not_written_when_all_lines_are_good(self):
        self.load(HEADER, score(), options=["--skip-invalid"])

        self.assertEqual(self.names(), ["scores.csv"])

    def test_rejected_file_of_earlier_import_is_kept(self):
        """It may be the only copy of lines that are not corrected yet, or no file of ours."""
        earlier = self.folder / "scores.csv.rejected"
        earlier.write_text("of another time")

        self.load(HEADER, score())
        self.load(HEADER, score(), options=["--skip-invalid"])
        said = [
            self.load(HEADER, score(attempts=attempts), options=["--skip-invalid"], code=1)
            for attempts in ("x", "y")
        ]

        self.assertEqual(earlier.read_text(), "of another time")
        for number, (output, attempts) in enumerate(zip(said, ("x", "y"), strict=True), start=2):
            name = f"scores.csv.rejected.{number}"
            self.assertIn(f"/{name}: correct and import them.", output)
            self.assertIn(f",{attempts},", (self.folder / name).read_text())
        self.assertEqual(len(self.names()), 4)

    def test_rejected_file_never_follows_a_link(self):
        secret = self.folder / "secret"
        secret.write_text("kept")
        for target in (secret, self.folder / "dangling"):
            with self.subTest(target.name):
                link = self.folder / "scores.csv.rejected"
                link.unlink(missing_ok=True)
                link.symlink_to(target)

                self.load(HEADER, score(attempts="x"), options=["--skip-invalid"], code=1)

                self.assertTrue(link.is_symlink())
                self.assertEqual(secret.read_text(), "kept")
                self.assertFalse((self.folder / "dangling").exists())

    def test_rejected_file_with_a_number_is_imported(self):
        said = self.load(HEADER, score(), name="scores.csv.gz.rejected.12")

        self.assertIn("1 new", said)

    def test_rejected_file_keeps_the_header_and_the_delimiter(self):
        lines = ["sep=;", "user_id;exercise_id;correct", "1;1;true", "x;1;true"]

        self.load(*lines, options=["--skip-invalid"], code=1)

        rejected = (self.folder / "scores.csv.rejected").read_text()
        self.assertRegex(rejected, "^user_id;exercise_id;correct\n# line 4: .*\nx;1;true\n$")
        corrected = rejected.replace("x;", "2;")
        self.assertIn("1 new", self.load(corrected, name="scores.csv.rejected"))

    def test_rejected_file_is_as_private_as_the_imported_one(self):
        path = self.file(HEADER, score(attempts="x"))
        path.chmod(0o640)

        self.manage("import_scores", str(path), "--skip-invalid")

        self.assertEqual(mode(self.folder / "scores.csv.rejected"), 0o640)

    def test_rejected_file_is_not_left_when_the_commit_fails(self):
        self.sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN RAISE 'no commit today'; END $$"
        )
        self.sql(
            "CREATE CONSTRAINT TRIGGER failing AFTER INSERT ON scores"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
        )
        self.addCleanup(self.sql, "DROP FUNCTION fail() CASCADE")

        said = self.load(HEADER, score(), "x", options=["--skip-invalid"], code=1)

        self.assertIn("PostgreSQL: no commit today. The database is as it was.", said)
        self.assertEqual(self.names(), ["scores.csv"])
        self.assertEqual(self.scores(), [])

    def test_keeps_json_as_it_was(self):
        good, bad = '{"user_id":1,"exercise_id":2,"correct":true}', '{"user_id":  0 }'
        with gzip.open(self.folder / "scores.jsonl.gz", "wb") as file:
            file.write(f"{good}\n{bad}".encode())

        self.manage("import_scores", str(self.folder / "scores.jsonl.gz"), "--skip-invalid")

        rejected = (self.folder / "scores.jsonl.gz.rejected").read_text()
        self.assertRegex(rejected, f"^# line 2: user_id: .*; correct: .*\n{bad}\n$")

    def test_leaves_those_of_standard_input_in_this_folder(self):
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)

        lines = "user_id,exercise_id,correct\n0,1,true\n"
        result = self.manage("import_scores", "-", "--skip-invalid", input=lines)

        self.assertEqual(result.exit_code, 1)
        self.assertIn("0,1,true\n", (self.folder / "stdin.rejected").read_text())


class TestRoundTrip(TransferTestCase):
    def test_is_the_same_to_the_byte_in_every_format(self):
        for number in range(1, 40):
            outcome = {"solved_at": "", "correct_attempts": "0", "correct": "false"}
            cells = {"id": str(3 * number), "user_id": str(number)} | (
                outcome if number % 3 else {}
            )
            self.load(HEADER, score(**cells))
        before = self.export()

        for name in ("a.csv", "b.jsonl", "c.csv.gz", "d.jsonl.gz", "e.ndjson"):
            with self.subTest(name):
                written = self.export(name)
                empty_tables()

                result = self.manage("import_scores", str(self.folder / name))

                self.assertIn("39 lines: 39 new", result.output)
                self.assertEqual(self.export(name), written)
                self.assertEqual(self.export(), before)
        self.assertEqual(before.decode().splitlines()[3], score(id="9", user_id="3"))

    def test_is_packed_without_the_time(self):
        """Which would make other bytes of the same scores."""
        self.assertEqual(self.export("a.csv.gz")[4:8], bytes(4))

    def test_again_changes_nothing(self):
        for name in ("a.csv", "b.jsonl"):
            with self.subTest(name):
                self.load(HEADER, score())
                self.export(name)
                attempts = self.attempts()

                result = self.manage("import_scores", str(self.folder / name))

                self.assertIn("0 new and 0 changed scores, 1 lines without effect", result.output)
                self.assertEqual(self.attempts(), attempts)

    def test_goes_to_standard_output(self):
        self.load(HEADER, score())

        result = self.manage("export_scores", "-")

        self.assertEqual(result.stdout, f"{HEADER}\n{score()}\n")
        self.assertRegex(result.stderr, r"^Exported 1 scores to standard output: \d+B, \d.\d s.\n$")


class TestExport(TransferTestCase):
    def test_export_prints_a_summary(self):
        self.load(HEADER, score(), score(id="6", user_id="2"))

        for name in ("out.csv", "out.jsonl", "out.csv.gz"):
            with self.subTest(name):
                path = self.folder / name

                result = self.manage("export_scores", str(path))

                size = path.stat().st_size
                self.assertRegex(
                    result.stdout, rf"^Exported 2 scores to {path}: {size}B, \d+\.\d s\.\n$"
                )
                self.assertEqual(result.stderr, "")

    def test_export_keeps_the_earlier_file_when_it_fails(self):
        path = self.folder / "out.csv"
        for earlier in (None, "of yesterday"):
            with self.subTest(earlier):
                if earlier:
                    path.write_text(earlier)
                self.sql("ALTER TABLE scores RENAME TO away")
                try:
                    result = self.manage("export_scores", str(path))
                finally:
                    self.sql("ALTER TABLE away RENAME TO scores")

                self.assertEqual(result.exit_code, 1)
                self.assertIn("run python manage.py db upgrade", result.output)
                self.assertEqual(self.names(), ["out.csv"] if earlier else [])
                self.assertEqual(path.read_text() if earlier else None, earlier)

    def test_export_keeps_mode_and_owner_of_the_earlier_file(self):
        path = self.folder / "out.csv"
        path.touch()
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, 1, 2)
        before = path.stat()

        self.export()

        after = path.stat()
        self.assertNotEqual(after.st_ino, before.st_ino)
        self.assertEqual(
            (after.st_mode, after.st_uid, after.st_gid),
            (before.st_mode, before.st_uid, before.st_gid),
        )

    def test_export_gives_a_new_file_the_mode_of_the_umask(self):
        for umask in (0o022, 0o077):
            with self.subTest(umask=umask):
                self.addCleanup(os.umask, os.umask(umask))

                self.export(f"out-{umask}.csv")

                self.assertEqual(mode(self.folder / f"out-{umask}.csv"), 0o666 & ~umask)

    def test_export_through_a_link_replaces_the_file_behind_it(self):
        (self.folder / "real.csv").touch()
        (self.folder / "out.csv").symlink_to("real.csv")

        exported = self.export()

        self.assertTrue((self.folder / "out.csv").is_symlink())
        self.assertEqual((self.folder / "real.csv").read_bytes(), exported)

    @unittest.skipUnless(os.geteuid() == 0, "only root can create files of other users")
    def test_export_rejects_what_another_user_created_in_a_shared_folder(self):
        """As in /tmp: it could be a link to any file, a pipe that is read, or readable to all."""
        shared = self.folder / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        secret = self.folder / "secret"
        secret.write_text("kept")
        kinds = {
            "link": lambda path: path.symlink_to(secret),
            "dangling": lambda path: path.symlink_to(self.folder / "new"),
            "file": Path.touch,
            "pipe": os.mkfifo,
        }
        for kind, create in kinds.items():
            with self.subTest(kind):
                path = shared / f"{kind}.csv"
                create(path)
                os.chown(path, 4711, 4711, follow_symlinks=False)
                before = path.lstat()

                result = self.manage("export_scores", str(path))

                self.assertEqual(result.exit_code, 1, result.output)
                self.assertIn(f"{path} belongs to another user", result.output)
                self.assertEqual(path.lstat(), before)
        self.assertEqual(secret.read_text(), "kept")
        self.assertFalse((self.folder / "new").exists())

    def test_export_replaces_our_own_file_in_a_shared_folder(self):
        self.folder.chmod(0o1777)
        (self.folder / "out.csv").touch()

        exported = self.export()

        self.assertTrue(exported)

    def test_export_replaces_one_name_of_a_hard_link(self):
        (self.folder / "out.csv").write_text("earlier")
        (self.folder / "other.csv").hardlink_to(self.folder / "out.csv")

        exported = self.export()

        self.assertTrue(exported.startswith(b"id,"), exported)
        self.assertEqual((self.folder / "other.csv").read_text(), "earlier")

    def test_export_error_names_the_file_of_the_user(self):
        (self.folder / "file").touch()
        for parent, cause in [
            ("nowhere", "No such file or directory"),
            ("file", "Not a directory"),
        ]:
            with self.subTest(parent):
                path = self.folder / parent / "out.csv"

                result = self.manage("export_scores", str(path))

                self.assertEqual(result.exit_code, 1)
                self.assertEqual(result.output, f"Error: {path}: {cause}. Nothing is exported.\n")


class TestAnswers(TransferTestCase):
    HEADER = "user_id,exercise_id,correct,at"

    def row(self):
        return self.sql(
            "SELECT correct, attempts, correct_attempts, solved_at IS NOT NULL FROM scores"
        )

    def test_are_added_once(self):
        said = [
            self.load(self.HEADER, f"1,2,{answer},{at}")
            for answer, at in [("false", AT), ("true", LATER), ("false", AT), ("true", LATER)]
        ]

        self.assertEqual(["1 new" in one for one in said], [True, False, False, False])
        self.assertEqual(["1 changed" in one for one in said], [False, True, False, False])
        self.assertEqual(self.row(), [(True, 2, 1, True)])
        self.assertEqual(self.attempts(), [(1, 1, False, None), (1, 2, True, None)])

    def test_leave_solved_what_was(self):
        self.load(self.HEADER, f"1,2,true,{AT}")

        self.load(self.HEADER, f"1,2,false,{LATER}")

        self.assertEqual(self.row(), [(False, 2, 1, True)])


class TestRegrading(TransferTestCase):
    def test_takes_back_that_something_was_solved(self):
        """The totals follow, which the end of every test here looks at."""
        add_score(user_id=1, exercise_id=1)
        add_score(user_id=1, exercise_id=2)
        db.transact(
            lambda connection: queries.upsert_scores(
                connection, [NewAttempt(1, 2, answer, 1) for answer in (True, False, True)]
            )
        )
        [(updated_at,)] = self.sql("SELECT max(updated_at) FROM scores")
        worse = {"correct": "false", "attempts": "2", "correct_attempts": "0", "solved_at": ""}
        worse |= {"updated_at": updated_at.isoformat()}

        said = self.load(HEADER, score(id="2", **worse))

        self.assertIn("1 changed", said)
        self.assertEqual(self.scores(), [(1, 1, True), (1, 2, False)])
        self.assertEqual(self.sql("SELECT solved FROM user_totals"), [(1,)])
        self.assertEqual(
            self.sql("SELECT seq, correct, actor FROM attempts WHERE exercise_id = 2 ORDER BY 1"),
            [(1, True, 1), (2, False, None)],
        )


class TestIds(TransferTestCase):
    def test_of_a_file_are_never_drawn_again(self):
        add_score(user_id=9, exercise_id=9)

        self.load(HEADER, score(id="1000"))

        self.assertEqual(add_score(user_id=8, exercise_id=8).id, 1001)
        self.assertIn("1 lines without effect", self.load(HEADER, score(id="1000")))
        self.assertEqual(add_score(user_id=8, exercise_id=9).id, 1002)

    def test_are_drawn_where_the_file_has_none(self):
        lines = [HEADER, score(), score(user_id="3")]

        self.load(*(line.partition(",")[2] for line in lines))

        self.assertEqual(self.sql("SELECT id, user_id FROM scores ORDER BY 1"), [(1, 1), (2, 3)])

    def test_wait_for_those_who_may_have_drawn_them(self):
        """A score that is not committed yet has its id already."""
        path = self.file(HEADER, score(id="1"))
        with db.engine.connect() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(
                text("INSERT INTO scores (user_id, exercise_id, correct) VALUES (7, 7, false)")
            )
            process = start("import_scores", path, url=url())
            wait_until(lambda: self.sql(RESERVING))
            connection.commit()
        said = process.communicate(timeout=GRACE_SECONDS)[1]
        db.transact(totals.mend)

        self.assertIn(b"id: It is that of user 7 and exercise 7", said)


def url():
    """Return where the database of these tests is, as a setting."""
    return database_url().render_as_string(hide_password=False)


def start(*arguments, url):
    return subprocess.Popen(
        [sys.executable, "manage.py", *map(str, arguments)],
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class TestTogether(TransferTestCase):
    def test_with_a_load_of_writes_nothing_is_lost(self):
        """Answers by requests and by files on the same scores: every attempt is counted."""
        stopping = threading.Event()
        done = []

        def write():
            with self.app.app_context():
                for turn in itertools.count():
                    if stopping.is_set():
                        return
                    batch = [NewAttempt(user, 1, turn % 2 == 0, 1) for user in range(1, 40, 3)]
                    db.transact(lambda c, batch=batch: queries.upsert_scores(c, batch))
                    done.append(len(batch))

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for answer in ["true", "false"] * 2:
                lines = [f"{user},1,{answer}" for user in range(1, 40)]
                self.load("user_id,exercise_id,correct", *lines)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

        [(attempts, logged)] = self.sql(
            "SELECT (SELECT sum(attempts) FROM scores), (SELECT count(*) FROM attempts)"
        )
        self.assertEqual(attempts, logged)
        self.assertGreaterEqual(attempts, sum(done) + 39)
        self.assertEqual(totals.select_differences(), [])

    def test_of_two_imports_one_waits_for_the_other(self):
        lines = [f"{user},{exercise},true" for user in range(1, 300) for exercise in range(1, 11)]
        path = self.file("user_id,exercise_id,correct", *lines)

        processes = [start("import_scores", path, url=url()) for _ in range(2)]
        said = sorted(process.communicate(timeout=GRACE_SECONDS)[0] for process in processes)

        self.assertEqual([process.returncode for process in processes], [0, 0])
        self.assertIn(b" 0 new and 0 changed scores, 2990 lines without effect", said[0])
        self.assertIn(b" 2990 new and 0 changed scores", said[1])
