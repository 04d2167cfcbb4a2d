"""Output of which the budget dropped a part: no half line is glued to another."""

import os
from pathlib import Path

import pytest

from dispatcher.host.holes import BLOCK
from dispatcher.host.run_output import CHUNK, RunOutput, dropped, start_of_tail
from tests.holes import punch_out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.log"


def read_all(output: RunOutput) -> bytes:
    return b"".join(iter(output.read, b""))


def test_output_that_begins_within_a_line_continues_at_the_next_one(file: Path) -> None:
    lines = [b"%07d\n" % n + b"x" * 20 + b"\n" for n in range(2000)]
    content = b"".join(lines)
    file.write_bytes(content)
    punch_out(str(file), 0, 3 * BLOCK)

    with RunOutput(str(file), budget=0) as output:
        read = read_all(output)

        rest = content[3 * BLOCK :]
        assert rest[rest.index(b"\n") + 1 :] == read
        assert len(content) - len(read) == output.dropped
    assert 3 * BLOCK == dropped(str(file), 0)


def test_a_line_that_a_follower_has_begun_is_ended_and_the_next_whole_one_follows(
    file: Path,
) -> None:
    file.write_bytes(b"a" * (BLOCK - 5) + b"\nhalf")
    with RunOutput(str(file), budget=0) as output:
        assert read_all(output).endswith(b"\nhalf")
        with file.open("ab") as more:
            more.write(b" a line\n" + b"b" * (2 * BLOCK) + b"\nwhole\n")
        punch_out(str(file), 0, 2 * BLOCK)

        assert b"\nwhole\n" == read_all(output)


def test_the_end_of_what_was_read_does_not_break_a_line(file: Path) -> None:
    file.write_bytes(b"x" * (BLOCK + CHUNK - 1) + b"\n" + b"more\n")
    punch_out(str(file), 0, BLOCK)

    with RunOutput(str(file), budget=0) as output:
        assert b"more\n" == read_all(output)


def test_a_line_longer_than_a_read_is_given_as_it_is(file: Path) -> None:
    file.write_bytes(b"x" * (BLOCK + CHUNK) + b"\nmore\n")
    punch_out(str(file), 0, BLOCK)

    with RunOutput(str(file), budget=0) as output:
        assert b"x" * CHUNK + b"\nmore\n" == read_all(output)


def test_a_file_without_holes_is_read_whole(file: Path) -> None:
    assert 0 == dropped(str(file), 0)
    file.write_bytes(b"a\nb")

    with RunOutput(str(file), budget=0) as output:
        assert (b"a\nb", 0) == (read_all(output), output.dropped)
    assert 0 == dropped(str(file), 0)


@pytest.mark.parametrize("gap", [BLOCK, 10 * CHUNK, 1 << 40])
@pytest.mark.parametrize("lines", [1, 3, 5, 9])
def test_the_last_lines_are_found_across_holes_however_large(
    file: Path, monkeypatch: pytest.MonkeyPatch, gap: int, lines: int
) -> None:
    """3 GiB with holes took six seconds: they were read."""
    starts = [0]
    with file.open("wb") as writer:
        for _ in range(6):
            writer.seek(gap, os.SEEK_CUR)
            writer.write(b"x" * 2 * BLOCK + b"\n")
            starts.append(writer.tell())
    reads = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        reads.append(offset)
        return pread(descriptor, size, offset)

    monkeypatch.setattr("dispatcher.cli.output.os.pread", counted)
    with file.open("rb") as reader:
        assert starts[max(0, 6 - lines)] == start_of_tail(reader.fileno(), lines)

    assert len(reads) <= 20


def test_r67_a_hole_that_the_worker_made_tears_no_line(file: Path) -> None:
    """`truncate -s 200K /proc/self/fd/1` between two lines: the second was lost."""
    with file.open("ab") as writer:
        writer.write(b"start\n")
        writer.truncate(50 * BLOCK)
        writer.write(b"end 1\nend 2\n")

    with RunOutput(str(file), budget=50 * BLOCK) as output:
        assert b"start\nend 1\nend 2\n" == read_all(output).replace(b"\0", b"")
        assert (0, True) == (output.dropped, output.holes > 0)
    assert 0 == dropped(str(file), 50 * BLOCK)


def rewrite(file: Path, text: bytes) -> None:
    """Write a file anew, at a later time than before."""
    then = file.stat().st_mtime_ns
    file.write_bytes(text)
    os.utime(file, ns=(then, then + 4_000_000))


def test_an_output_written_anew_and_as_long_as_before_is_read_once_more(file: Path) -> None:
    """`echo "line $i" > /dev/stderr`: a follower printed the first line alone."""
    file.write_bytes(b"line 1\n")
    with RunOutput(str(file), budget=0) as output:
        assert b"line 1\n" == read_all(output)
        for line in (b"line 2\n", b"line 3\n"):
            rewrite(file, line)
            assert b"" == output.read()  # it may be about to grow
            assert line == read_all(output)
            assert b"" == read_all(output)
        assert 2 * len(b"line 1\n") == output.truncated


def test_an_output_that_grows_and_rests_is_read_once(file: Path) -> None:
    file.write_bytes(b"line 1\n")
    with RunOutput(str(file), budget=0) as output:
        read_all(output)
        with file.open("ab") as more:
            more.write(b"line 2\n")
        assert b"line 2\n" == read_all(output)
        assert [b"", b"", b""] == [output.read() for _ in range(3)]


def test_an_output_that_grows_after_its_time_moved_was_not_truncated(file: Path) -> None:
    file.write_bytes(b"line 1\n")
    with RunOutput(str(file), budget=0) as output:
        assert b"line 1\n" == read_all(output)
        rewrite(file, b"line 1\n")
        assert b"" == output.read()
        with file.open("ab") as more:
            more.write(b"line 2\n")

        assert (b"line 2\n", 0) == (read_all(output), output.truncated)


def test_an_output_whose_beginning_the_budget_took_was_not_truncated(file: Path) -> None:
    file.write_bytes(b"x" * BLOCK + b"\nline\n")
    with RunOutput(str(file), budget=0) as output:
        read_all(output)
        then = file.stat().st_mtime_ns
        punch_out(str(file), 0, BLOCK)
        os.utime(file, ns=(then, then + 4_000_000))

        assert [b"", b"", b""] == [output.read() for _ in range(3)]
        assert 0 == output.truncated


def test_output_after_a_truncation_by_its_writer_is_read(file: Path) -> None:
    """`echo note > /dev/stderr` does: a follower waited until the file was as long again."""
    file.write_bytes(b"before\n")
    with RunOutput(str(file), budget=0) as output:
        assert b"before\n" == read_all(output)
        file.write_bytes(b"new\n")

        assert b"new\n" == read_all(output)
        assert len(b"before\n") == output.truncated
