"""From words to the inputs of an exported memory network, and from its logits to a word."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tvm_qnn.errors import InputError, ModelError

METADATA = "tvm_qnn.vocabulary"
"""Key of the metadata: JSON with ``words`` (by number), ``answers`` (by logit) and ``slots``."""


@dataclass(frozen=True)
class Vocabulary:
    """The words that a memory network knows, and the sizes of its inputs.

    Attributes:
        words: by number; number 0 is padding, and the numbers behind the words are time slots.
        answers: by logit.
        slots: sentences of a story, L.
        sentence: numbers of a sentence with its time slot, W.
        question: numbers of a question.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]
    slots: int
    sentence: int
    question: int

    def encode(self, story: Sequence[str], question: str) -> dict[str, NDArray[np.int32]]:
        """Return the inputs of a model of batch size 1.

        Args:
            story: sentences, the oldest first; only the last ``slots`` of them are kept.
            question: a sentence.

        Returns:
            ``story`` [1, L, W] and ``question`` [1, question] int32: every word of a sentence once,
            behind them its time slot, 0 for the most recent sentence.

        Raises:
            InputError: if a word is not known, or a sentence has too many different ones.
        """
        kept = list(story)[-self.slots :]
        slots = np.zeros((1, self.slots, self.sentence), np.int32)
        for slot, text in enumerate(kept):
            time = len(self.words) + len(kept) - 1 - slot
            numbers = [*self._numbers(text, self.sentence - 1), time]
            slots[0, slot, : len(numbers)] = numbers
        asked = np.zeros((1, self.question), np.int32)
        numbers = self._numbers(question, self.question)
        asked[0, : len(numbers)] = numbers
        return {"story": slots, "question": asked}

    def decode(self, logits: NDArray[np.float32]) -> list[str]:
        """Return the answer of each row of logits [N, A]: that of the largest logit."""
        best = np.asarray(logits)[:, : len(self.answers)].argmax(axis=1)
        return [self.answers[i] for i in best]

    def _numbers(self, text: str, room: int) -> list[int]:
        words = list(dict.fromkeys(re.findall(r"\w+", text.lower())))
        for word in words:
            if word not in self.words[1:]:
                raise InputError(
                    f"{text!r}: the model does not know the word {word!r}, but "
                    f"{len(self.words) - 1} others, such as {', '.join(self.words[1:6])}"
                )
        if len(words) > room:
            raise InputError(f"{text!r}: {len(words)} different words, the model takes {room}")
        return [self.words.index(word) for word in words]


def read_vocabulary(model: str | Path | onnx.ModelProto) -> Vocabulary:
    """Read the vocabulary of an exported memory network.

    Raises:
        ModelError: if the file is missing or damaged, or holds no vocabulary.
    """
    if not isinstance(model, onnx.ModelProto):
        try:
            model = onnx.load(str(model), load_external_data=False)
        except Exception as error:
            # What onnx raises for missing and for damaged files has no base class.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{model}: cannot be read ({reason})") from None
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA)
    shapes = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in model.graph.input
    }
    try:
        told = json.loads(stored or "")
        return Vocabulary(
            tuple(map(str, told["words"])),
            tuple(map(str, told["answers"])),
            shapes["story"][1],
            shapes["story"][2],
            shapes["question"][1],
        )
    except (ValueError, KeyError, TypeError, IndexError):
        raise ModelError(
            f"{model.graph.name}: holds no vocabulary; export the network with its words"
        ) from None
