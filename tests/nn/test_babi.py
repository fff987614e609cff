"""bAbI files: official ones load and encode as the paper did, every kind of damage is one line."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tvm_qnn.nn.qmann import babi
from tvm_qnn.nn.qmann.babi import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "babi"
TRAIN = (
    """\
1 Mary moved to the bathroom.
2 Where is Mary? \tbathroom\t1
3 John and Mary went to the office and the bathroom.
4 Where is Mary?\toffice\t3
1 John got milk and football there.
2 What is John carrying? \tmilk,football\t1
"""
    * 5
)
TEST = "1 Mary moved to the Office.\n2 Where is mary? \tOffice\t1\n"


def blobs():
    name = babi.NAMES[1]
    texts = {f"en/{name}_train.txt": TRAIN, f"en-10k/{name}_train.txt": TRAIN * 2}
    texts |= {f"{release}/{name}_test.txt": TEST for release in ("en", "en-10k")}
    return {path: text.encode() for path, text in texts.items()}


def pack(folder, files):
    for release, archive in babi.ARCHIVES.items():
        with tarfile.open(folder / archive, "w:gz") as tar:
            for path, blob in files.items():
                if path.startswith(release + "/"):
                    member = tarfile.TarInfo(f"{babi.ROOT}/{path}")
                    member.size = len(blob)
                    tar.addfile(member, io.BytesIO(blob))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small archives whose checksums pass for the official ones."""
    for table, text in (("TRAIN_1K", TRAIN), ("TRAIN_10K", TRAIN * 2), ("TEST", TEST)):
        digest = hashlib.sha256(text.encode()).hexdigest()
        monkeypatch.setitem(getattr(babi, table), 1, digest)
    pack(tmp_path, blobs())
    return tmp_path


def test_reads_archives_and_unpacked_folders(folder, tmp_path_factory):
    task = babi.load(folder, 1)
    assert (task.size, task.name, len(task.train), len(task.validation)) == (
        "10k", "qa1_single-supporting-fact", 27, 3,
    )  # fmt: skip
    assert len(babi.load(folder, 1, "1k").train) == 13
    unpacked = tmp_path_factory.mktemp("unpacked")
    for path, blob in blobs().items():
        file = unpacked / babi.ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blob)
    for root in (unpacked, unpacked / babi.ROOT):
        assert babi.load(root, 1).train.story.tolist() == task.train.story.tolist()


def test_encoding():
    task = babi.encode(1, "1k", TRAIN, TEST)
    words = dict(zip(task.dictionary, range(99), strict=False))
    assert task.dictionary[:6] == ("NULL", "mary", "moved", "to", "the", "bathroom")
    assert task.slots == 2
    assert task.vocabulary == len(words) + 2
    recent, older = len(words), len(words) + 1

    def bag(text):
        return [words[word] for word in text.split()]

    first, second, third = (row.tolist() for row in task.train.story[:3])
    moved = bag("mary moved to the bathroom")
    width = task.train.story.shape[2]
    assert first == [[*moved, recent, *[0] * (width - 6)], [0] * width]
    # No word twice, the time word behind the words, the oldest sentence first.
    longer = bag("john and mary went to the office bathroom")
    assert second == [[*moved, older, *[0] * (width - 6)], [*longer, recent]]
    # A new story forgets the old one; an answer of two words is one word.
    assert third[1] == [0] * width
    assert task.dictionary[task.train.answer[2]] == "milk,football"
    assert task.train.question[0].tolist() == [*bag("where is mary"), 0]
    assert task.test.answer.tolist() == bag("office")


def test_only_the_last_50_sentences_are_kept():
    lines = [f"{i + 1} Mary moved to room{i % 7}." for i in range(60)]
    text = "\n".join([*lines, "61 Where is Mary?\troom3\t60"]) + "\n"
    task = babi.encode(2, "1k", text * 10, text)
    assert task.slots == 50
    assert task.train.story.shape[1] == 50
    ages = task.train.story[0].max(axis=1) - len(task.dictionary)
    assert ages.tolist() == list(range(49, -1, -1))
    assert task.dictionary[task.train.story[0, 0, 4 - 1]] == "room3"


def test_missing_files_say_where_to_get_them(folder, tmp_path_factory):
    with pytest.raises(
        DataError, match=r"neither en-10k/qa2_.*v1-2-en\.tar\.gz.*facebook"
    ) as caught:
        babi.load(folder, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="--data needs the folder"):
        babi.load(tmp_path_factory.mktemp("empty"), 1)
    with pytest.raises(DataError, match="--data needs the folder"):
        babi.load(folder / "nowhere", 1)


def test_a_changed_file_is_named(folder):
    files = blobs()
    files["en-10k/qa1_single-supporting-fact_test.txt"] += b"\n"
    pack(folder, files)
    with pytest.raises(DataError, match=r"not that of the official en-10k/qa1_.*_test\.txt"):
        babi.load(folder, 1)


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_a_damaged_archive_is_named(folder, cut):
    path = folder / babi.ARCHIVES["en-10k"]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"en-10k\.tar\.gz: damaged archive"):
        babi.load(folder, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Mary moved.\n", "line 1 'Mary moved.' is no bAbI line"),
        ("1 Mary moved.\n2 Where?\tthere\n", "line 2"),
        ("1 Mary moved.\n2 Where?\t\t1\n", "line 2"),
        ("1 Mary moved.\n", "no question"),
        ("", "no question"),
    ],
)
def test_text_of_another_format_is_refused(text, reason):
    with pytest.raises(DataError, match=reason):
        babi.encode(1, "1k", text, TEST)


def test_a_test_with_new_words_is_refused():
    with pytest.raises(DataError, match="uses 'lisbon', which no training question has"):
        babi.encode(1, "1k", TRAIN, TEST.replace("Office", "Lisbon"))


def test_tasks_and_sizes_that_do_not_exist(folder):
    with pytest.raises(ValueError, match="the tasks 1 to 20, not 21"):
        babi.load(folder, 21)
    with pytest.raises(ValueError, match="'1k' or '10k'"):
        babi.load(folder, 1, "100k")


# Input dimension of the paper's network (words and time words), and its memory slots.
@pytest.mark.skipif(not SHARED.exists(), reason=f"the bAbI archives are not in {SHARED}")
@pytest.mark.parametrize(
    ("number", "inputs", "slots", "size"),
    [
        (1, 30, 10, "10k"), (3, 85, 50, "1k"), (4, 17, 2, "10k"), (6, 62, 26, "10k"),
        (8, 98, 50, "10k"), (15, 26, 8, "10k"), (19, 37, 5, "10k"), (20, 48, 12, "10k"),
    ],
)  # fmt: skip
def test_official_tasks_have_the_dimensions_of_the_paper(number, inputs, slots, size):
    task = babi.load(SHARED, number)
    assert (task.vocabulary, task.slots, task.size) == (inputs, slots, size)
    trained = 900 if size == "1k" else 9000
    assert (len(task.train), len(task.validation)) == (trained, trained // 9)
    assert len(task.test) == 1000
    assert task.test.story.shape[1:] == task.train.story.shape[1:]
