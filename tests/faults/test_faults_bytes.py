"""A spool that is truncated or changed at any place: nothing wrong is delivered, and a program goes on."""

from __future__ import annotations

import random
import shutil

import pytest
from spooled_traces import WHERE, spool_at, spooled_row

from dspy_mlflow_callbacks.export.spool.settings import FILE

PLACES = 200
ROWS = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the file of a spool with rows of many sizes, and its rows by name."""
    folder, chance = tmp_path_factory.mktemp("sound"), random.Random(7)
    rows = {
        f"tr-{number}": spooled_row(f"tr-{number}", request=chance.randbytes(chance.choice([50, 900, 5_000, 20_000])))
        for number in range(ROWS)
    }
    spool = spool_at(folder)
    spool.add_all([(row, None) for row in rows.values()])
    spool.database.close()
    return folder / FILE, rows


def delivered(folder):
    """Go on with a spool as a program does, and return the rows that it gives, by name."""
    spool = spool_at(folder)
    spool.add(spooled_row("new"), is_mine=False)
    found = []
    for destination in spool.destinations():
        while rows := spool.claim(destination, 100, 100_000_000):
            found += rows
            spool.delete([row.id for row in rows])
    spool.database.close()
    assert found[-1].destination == WHERE
    return found


def check(folder, rows):
    """Compare what a damaged spool gives with what was written."""
    found = delivered(folder)
    names = [row.trace_id for row in found]
    assert names.count("new") == 1
    assert len(names) == len(set(names))
    for row in found:
        assert row.trace_id == "new" or row.request == rows[row.trace_id].request
    return len(found) - 1


@pytest.mark.timeout(250)
def test_a_spool_that_is_truncated(sound, tmp_path):
    """Cut off at any of 200 places, a spool gives what is whole, and takes what comes."""
    file, rows = sound
    size, chance, saved = file.stat().st_size, random.Random(8), []
    for number in range(PLACES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(file, folder / FILE)
        with (folder / FILE).open("r+b") as opened:
            opened.truncate(chance.randrange(size))
        saved.append(check(folder, rows))
    assert max(saved) > ROWS / 2


@pytest.mark.timeout(250)
def test_a_spool_with_a_changed_byte(sound, tmp_path):
    """With a byte changed at any of 200 places, a spool gives all traces but the few behind that byte."""
    file, rows = sound
    data, chance, saved = file.read_bytes(), random.Random(9), []
    for number in range(PLACES):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = chance.randrange(len(data))
        changed = bytes([data[place] ^ chance.randrange(1, 256)])
        (folder / FILE).write_bytes(data[:place] + changed + data[place + 1 :])
        saved.append(check(folder, rows))
    assert sum(count >= ROWS - 1 for count in saved) > PLACES / 2
