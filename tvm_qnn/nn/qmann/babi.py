"""The bAbI question answering tasks v1.2 from their official files. Never downloads.

Encoding, after the authors of Q-MANN: one dictionary a task, lower case, index 0 for NULL, built
from the training file; the last 50 sentences; a sentence is a set of words (no word twice) plus one
time word, ``dictionary + age`` with age 0 for the most recent; an answer of several words is one
word. The first 90 % of the training questions train, the rest validates; nothing is shuffled.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_qnn.nn.data import DataError
from tvm_qnn.nn.qmann.babi_files import NAMES, TEST, TRAIN_1K, TRAIN_10K

ROOT = "tasks_1-20_v1-2"
ARCHIVES = {"en": f"{ROOT}-en.tar.gz", "en-10k": f"{ROOT}-en-10k.tar.gz"}
ORIGIN = "the bAbI tasks v1.2 (https://research.facebook.com/downloads/babi/)"
MEMORY = 50
"""Most sentences kept."""

Story = list[list[str]]


@dataclass(frozen=True)
class Questions:
    """Questions about stories, as word indices; 0 pads, behind the words.

    Attributes:
        story: ``[N, slots, words]`` int32, the oldest sentence first, empty slots last.
        question: ``[N, words]`` int32.
        answer: ``[N]`` int32, index of the answer in the dictionary.
    """

    story: np.ndarray
    question: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.answer)

    def part(self, start: int, stop: int) -> Questions:
        """The questions ``start`` to ``stop - 1``."""
        chosen = slice(start, stop)
        return Questions(self.story[chosen], self.question[chosen], self.answer[chosen])


@dataclass(frozen=True)
class Task:
    """One bAbI task.

    Attributes:
        number: 1 to 20.
        name: Such as "qa1_single-supporting-fact".
        size: Training set that was read, "1k" or "10k".
        dictionary: Words and answers; index 0 is "NULL".
        slots: Sentences of the longest training story, at most 50.
        train: Questions to train on.
        validation: Questions to choose weights by.
        test: The official test questions.
    """

    number: int
    name: str
    size: str
    dictionary: tuple[str, ...]
    slots: int
    train: Questions
    validation: Questions
    test: Questions

    @property
    def vocabulary(self) -> int:
        """Input dimension: words of the dictionary and time words."""
        return len(self.dictionary) + self.slots


def load(folder: Path, number: int, size: str = "10k") -> Task:
    """Load a task.

    Args:
        folder: Folder with the official archives, or with the unpacked ``tasks_1-20_v1-2``, or
            that folder itself.
        number: Task, 1 to 20.
        size: "10k" or "1k". Task 3 is always read at 1k: no checksum of its 10k training file is
            known here. :attr:`Task.size` says which.

    Returns:
        The encoded task.

    Raises:
        DataError: A file is missing or differs from the official one.
        ValueError: There is no such task or size.
    """
    if number not in NAMES:
        raise ValueError(f"bAbI has the tasks 1 to {len(NAMES)}, not {number}")
    if size not in ("1k", "10k"):
        raise ValueError(f"size must be '1k' or '10k', got {size!r}")
    full = size == "10k" and number in TRAIN_10K
    if full:
        train = _read(folder, "en-10k", number, "train", TRAIN_10K[number])
    else:
        train = _read(folder, "en", number, "train", TRAIN_1K[number])
    # The test files of both releases are the same.
    test = _read(folder, "en-10k" if full else "en", number, "test", TEST[number])
    return encode(number, "10k" if full else "1k", train.decode("ascii"), test.decode("ascii"))


def encode(number: int, size: str, train: str, test: str) -> Task:
    """Encode the texts of a task.

    Args:
        number: Task, 1 to 20.
        size: "1k" or "10k", for the record.
        train: Text of the training file.
        test: Text of the test file.

    Returns:
        The encoded task.

    Raises:
        DataError: A line is not in the format of the tasks, or the test asks with new words.
    """
    known, asked = list(parse(train)), list(parse(test))
    if not known or not asked:
        raise DataError(f"bAbI task {number}: no question in the text; fetch {ORIGIN}")
    words: dict[str, int] = {"NULL": 0}
    for story, question, answer in known:
        for sentence in (*story, question, [answer]):
            for word in sentence:
                words.setdefault(word, len(words))
    slots = min(MEMORY, max(len(story) for story, _, _ in known))
    width = 1 + max(len(set(s)) for story, _, _ in known + asked for s in story)
    long = max(len(set(question)) for _, question, _ in known + asked)
    try:
        first, second = (_indices(x, words, slots, width, long) for x in (known, asked))
    except KeyError as error:
        raise DataError(
            f"bAbI task {number}: the test uses {error}, which no training question has; "
            f"take both files from one release of {ORIGIN}"
        ) from error
    cut = len(first) * 9 // 10
    return Task(
        number,
        NAMES[number],
        size,
        tuple(words),
        slots,
        first.part(0, cut),
        first.part(cut, len(first)),
        second,
    )


def parse(text: str) -> Iterator[tuple[Story, list[str], str]]:
    """Read (sentences so far, question, answer) from the text of a task file, all in words.

    Raises:
        DataError: A line does not begin with a number, or a question line lacks its answer.
    """
    story: Story = []
    for number, line in enumerate(text.splitlines(), start=1):
        index, _, rest = line.partition(" ")
        parts = rest.split("\t")
        if not index.isdigit() or len(parts) == 2 or (len(parts) > 2 and not parts[1]):
            raise DataError(f"line {number} {line[:40]!r} is no bAbI line; fetch {ORIGIN}")
        if index == "1":
            story = []
        if len(parts) > 2:
            yield list(story), _words(parts[0]), parts[1].lower()
        else:
            story.append(_words(rest))


def _words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence.lower())


def _indices(
    questions: Sequence[tuple[Story, list[str], str]],
    words: dict[str, int],
    slots: int,
    width: int,
    long: int,
) -> Questions:
    stories = np.zeros((len(questions), slots, width), np.int32)
    asked = np.zeros((len(questions), long), np.int32)
    answers = np.zeros(len(questions), np.int32)
    for i, (story, question, answer) in enumerate(questions):
        kept = story[-slots:]
        for j, sentence in enumerate(kept):
            bag = [words[word] for word in dict.fromkeys(sentence)]
            bag.append(len(words) + len(kept) - 1 - j)
            stories[i, j, : len(bag)] = bag
        bag = [words[word] for word in dict.fromkeys(question)]
        asked[i, : len(bag)] = bag
        answers[i] = words[answer]
    return Questions(stories, asked, answers)


def _read(folder: Path, release: str, number: int, kind: str, expected: str) -> bytes:
    name = f"{NAMES[number]}_{kind}.txt"
    blob = _find(folder, release, name)
    if blob is None:
        raise DataError(
            f"{folder}: neither {release}/{name} nor {ARCHIVES[release]} that holds it; --data "
            f"needs the folder with {' and '.join(ARCHIVES.values())} of {ORIGIN}"
        )
    digest = hashlib.sha256(blob).hexdigest()
    if digest != expected:
        raise DataError(
            f"{folder}: SHA-256 {digest[:16]}... is not that of the official {release}/{name}; "
            f"fetch {ORIGIN} again"
        )
    return blob


def _find(folder: Path, release: str, name: str) -> bytes | None:
    for root in (folder / ROOT, folder):
        if (root / release / name).is_file():
            return (root / release / name).read_bytes()
    archive = folder / ARCHIVES[release]
    try:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(f"{ROOT}/{release}/{name}")
            return file.read() if file is not None else None
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{archive}: damaged archive ({error}); fetch {ORIGIN} again") from error
