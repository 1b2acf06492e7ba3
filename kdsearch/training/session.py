"""One training run, stepped an epoch at a time: the only trainer there is."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kdsearch.errors import Diverged
from kdsearch.record.store import Lease, Store
from kdsearch.spec.recipe import Recipe
from kdsearch.training import checkpoint
from kdsearch.training.data import load
from kdsearch.training.environment import environment
from kdsearch.training.epoch import Epoch, Training, run
from kdsearch.training.evaluate import score
from kdsearch.training.guidance import Guidance
from kdsearch.training.hints import Hints
from kdsearch.training.keys import key_of
from kdsearch.training.losses import entropy, soft_targets
from kdsearch.training.models import build
from kdsearch.training.networks import bring, initial, load_trained, packed_kib, size
from kdsearch.training.optimization import load_optimizer_state, make_optimizer, optimizer_state
from kdsearch.training.quantizers.base import canonical_state, load_canonical_state
from kdsearch.training.stacked import stack_size
from kdsearch.training.streams import stream
from kdsearch.training.teacher_outputs import Teacher, answered, trained_teacher
from kdsearch.training.views import Views

Row = dict[str, float]
Progress = Callable[[dict[str, Any]], None]
"""Called after each epoch trained here, of this recipe or a child, with ``role`` (empty for this recipe, else its path such as
``teachers.0``), ``key``, ``epoch``, ``epochs`` and the epoch's ``row``."""


class Session:
    """One training run, stepped an epoch at a time.

    What the store has is not done again: a finished entry is replayed epoch by epoch, an unfinished one replays its recorded epochs
    (:meth:`skip_recorded` passes over them) and goes on from the last checkpoint. Children the store lacks are trained first. The
    run's lease is held until the end or :meth:`close`; a second process with the same recipe waits for it, then replays.

    The metrics are the same bit for bit for the same recipe, thread count, versions and hardware, interrupted or not.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        *,
        device: str = "cpu",
        threads: int = 1,
        live_teachers: bool = False,
        on_progress: Progress | None = None,
        role: str = "",
        wait: bool = True,
    ) -> None:
        """``wait``: else raise :class:`~kdsearch.record.store.Leased` where the same recipe, or one it needs, is being trained already.

        ``live_teachers`` asks trained teachers anew in every step instead of reading their tables (to compare the two)."""
        self.recipe, self.store, self.device, self.threads = recipe, store, device, threads
        self.key = key_of(recipe)
        self._live, self._on_progress, self._role, self._wait = live_teachers, on_progress, role, wait
        self._given = 0
        self._rows: list[Row] = []
        self._metrics: dict[str, Any] | None = None
        self._lease: Lease | None = None
        self._stack = 1
        torch.set_num_threads(threads)
        if not store.has(self.key):
            self._lease = store.lease(self.key, wait=wait)
        try:
            if store.has(self.key):
                self._replay()
            else:
                self._prepare()
        except BaseException:
            self.close()
            raise

    # What a caller sees

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return len(self._rows) if self._metrics is not None else 1 if self.recipe.pretrained else self.recipe.optim.epochs

    @property
    def recorded(self) -> int:
        """Epochs whose results are known without training."""
        return len(self._rows)

    @property
    def finished(self) -> bool:
        """Whether every epoch has been given out by :meth:`step`."""
        return self._metrics is not None and self._given >= len(self._rows)

    @property
    def metrics(self) -> dict[str, Any]:
        """``{"epochs": [rows], "final": {...}, "environment": {...}, "warnings": [...]}``, once the run is finished."""
        if self._metrics is None:
            raise RuntimeError("the run is not finished")
        return self._metrics

    def skip_recorded(self) -> int:
        """Pass over epochs that are recorded already, except that a finished run keeps its last; returns how many were passed."""
        before = self._given
        self._given = max(before, len(self._rows) - (1 if self._metrics is not None else 0))
        return self._given - before

    @property
    def stack(self) -> int:
        """Sessions of this kind that :meth:`step_together` trains best at once; 1: each by itself, or a replay."""
        return self._stack

    def step(self) -> Row:
        """The next epoch: ``epoch`` (from 1), ``train_loss``, ``val_loss``, ``val_accuracy`` (percent), with ``evaluate_on: test``
        ``test_loss`` and ``test_accuracy`` too, ``coefficient`` and ``learning_rate`` of its last step, ``seconds``.

        Raises :class:`Diverged` when a loss is not finite. After the last epoch the entry is in the store.
        """
        [found] = Session.step_together([self])
        if isinstance(found, Exception):
            raise found
        return found

    @staticmethod
    def step_together(sessions: Sequence[Session]) -> list[Row | Exception]:
        """:meth:`step` of each, at once where they are of one kind: the same rows (but for ``seconds``, each its share), in less time."""
        found: dict[int, Row | Exception] = {}
        kinds: dict[Any, list[tuple[int, Epoch | None]]] = {}
        for index, session in enumerate(sessions):
            try:
                epoch = session._begin()
            except Exception as error:
                found[index] = error
            else:
                kind = None if epoch is None else epoch.training.kind
                kinds.setdefault(index if kind is None else kind, []).append((index, epoch))
        for of_kind in kinds.values():
            try:
                epochs = [epoch for _, epoch in of_kind if epoch is not None]
                if epochs:
                    torch.set_num_threads(sessions[of_kind[0][0]].threads)
                    run(epochs)
            except Exception as error:
                found |= {index: error for index, _ in of_kind}
                continue
            for index, epoch in of_kind:
                try:
                    found[index] = sessions[index]._end(epoch)
                except Exception as error:
                    found[index] = error
        return [found[index] for index in range(len(sessions))]

    def close(self) -> None:
        """Give the lease up; checkpoints stay."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Setting up

    def _replay(self) -> None:
        entry = self.store.entry(self.key)
        self._metrics = entry.metrics
        self._rows = self._metrics["epochs"]
        self.close()

    def _prepare(self) -> None:
        recipe, device = self.recipe, self.device
        for path, child in recipe.children().items():
            self._train_child(path, child)
        dataset = self.dataset = load(recipe.data)
        self._warnings: list[str] = []
        init = self.store.entry(key_of(recipe.init)).weights if recipe.init is not None else None
        self.model = initial(recipe, dataset, init)
        if recipe.pretrained is not None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                bring(recipe.pretrained, self.model)
            self._warnings += [str(warning.message) for warning in caught]
        self.cotrained = self._cotrained()
        self.model.train()
        hints = self._hints()
        trained = [network for network in (self.model, self.cotrained, hints) if network is not None]
        for network in trained:
            network.to(device)
        views = Views(dataset, dataset.train, recipe.data.augment, recipe.seed, device)
        self._training = Training(
            recipe,
            self.model,
            make_optimizer(recipe.optim, *trained),
            [parameter for network in trained for parameter in network.parameters()],
            self._guided(hints),
            views,
            dataset.train.labels.to(device),
            device,
            stack_size(recipe, dataset.shape, device, self.threads),
        )
        self._stack = max(1, self._training.stack)
        self._resume()

    def _train_child(self, path: str, child: Recipe) -> None:
        if not self.store.has(key_of(child)):
            role = f"{self._role}.{path}".strip(".")
            with Session(
                child, self.store, device=self.device, threads=self.threads, on_progress=self._on_progress, role=role, wait=self._wait
            ) as session:
                session.skip_recorded()
                while not session.finished:
                    session.step()

    def _cotrained(self) -> nn.Module | None:
        distill, dataset = self.recipe.distill, self.dataset
        if distill is None or distill.cotrain is None:
            return None
        if distill.cotrain.init is not None:
            child = distill.cotrain.init
            return load_trained(child, self.store, key=key_of(child), dataset=dataset).train()
        # Another seed than the student's, so that a network of the same architecture does not start as its copy.
        seed = stream(self.recipe.seed, "init", 1)
        return build(distill.cotrain.model, in_channels=dataset.shape[0], classes=dataset.classes, seed=seed).train()

    def _teachers(self) -> Iterator[Teacher]:
        for child in self.recipe.distill.teachers if self.recipe.distill is not None else ():
            yield trained_teacher(child, self.store, self.device)

    def _hints(self) -> Hints | None:
        distill = self.recipe.distill
        if distill is None or not distill.hints:
            return None
        teacher = self.cotrained if self.cotrained is not None else next(self._teachers()).network.cpu()
        return Hints(distill.hints, self.model, teacher, self.dataset.shape, self.recipe.seed)

    def _guided(self, hints: Hints | None) -> Guidance | None:
        recipe = self.recipe
        if recipe.distill is None:
            return None
        teachers = list(self._teachers())
        for teacher in teachers:
            if hints is not None:
                teacher.network.to(self.device)
        return Guidance(
            recipe.distill,
            teachers,
            self.cotrained,
            hints,
            self.dataset,
            recipe.data.augment,
            recipe.seed,
            live=self._live or recipe.data.streamed,
            device=self.device,
            dtype=recipe.optim.dtype,
        )

    # Training

    def _begin(self) -> Epoch | None:
        """The epoch to run; None where there is a row without running one."""
        if self._given < len(self._rows) or self._metrics is not None or self.recipe.pretrained is not None:
            return None
        torch.set_num_threads(self.threads)
        return Epoch(self._training, len(self._rows) + 1)

    def _end(self, epoch: Epoch | None) -> Row:
        if self._given < len(self._rows):
            self._given += 1
            return dict(self._rows[self._given - 1])
        if self._metrics is not None:
            raise RuntimeError("the run is finished")
        row = self._evaluated({"epoch": 1}) if epoch is None else self._trained(epoch)
        self._rows.append(row)
        self._given = len(self._rows)
        if len(self._rows) == self.epochs:
            self._finish()
        else:
            self.store.save_checkpoint(self.key, len(self._rows), self._state())
        if self._on_progress is not None:
            self._on_progress({"role": self._role, "key": self.key, "epoch": len(self._rows), "epochs": self.epochs, "row": dict(row)})
        return dict(row)

    def _trained(self, epoch: Epoch) -> Row:
        self._check(epoch.number, "training", epoch.loss)
        began = time.perf_counter()
        row = self._evaluated({"epoch": epoch.number, "train_loss": epoch.loss})
        seconds = epoch.seconds + time.perf_counter() - began
        return {**row, "coefficient": epoch.coefficient, "learning_rate": epoch.learning_rate, "seconds": seconds}

    def _evaluated(self, row: Row) -> Row:
        data = self.recipe.data
        splits = ["validation"] if self.dataset.validation is not None else []
        for split in [*splits, "test"] if data.evaluate_on == "test" else ["validation"]:
            found = score(self.model, self.dataset, split, device=self.device, dtype=self.recipe.optim.dtype)
            name = "val" if split == "validation" else split
            self._check(int(row["epoch"]), name, found.loss)
            row |= {f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy}
        return row

    def _check(self, epoch: int, what: str, loss: float) -> None:
        if not math.isfinite(loss):
            rate = self.recipe.optim.learning_rate
            raise Diverged(f"epoch {epoch}: the {what} loss is {loss}; lower optim.learning_rate (now {rate:g}) or set optim.gradient_clip")

    # State

    def _state(self) -> bytes:
        parts: dict[str, dict[str, Tensor]] = {"model": canonical_state(self.model), "optimizer": optimizer_state(self._training.optimizer)}
        if self.cotrained is not None:
            parts["cotrained"] = canonical_state(self.cotrained)
        if self._training.guidance is not None and self._training.guidance.hints is not None:
            parts["hints"] = self._training.guidance.hints.state_dict()
        return checkpoint.pack(parts, {"rows": self._rows})

    def _resume(self) -> None:
        found = self.store.latest_checkpoint(self.key)
        if found is None:
            return
        parts, header = checkpoint.unpack(found[1])
        load_canonical_state(self.model, parts["model"])
        if self.cotrained is not None:
            load_canonical_state(self.cotrained, parts["cotrained"])
        if self._training.guidance is not None and self._training.guidance.hints is not None:
            self._training.guidance.hints.load_state_dict(parts.get("hints", {}))
        load_optimizer_state(self._training.optimizer, parts.get("optimizer", {}))
        self._rows = header["rows"]

    def _finish(self) -> None:
        recipe, last = self.recipe, self._rows[-1]
        plain = size(recipe.model, self.dataset.shape, self.dataset.classes)
        final: dict[str, float] = {name: value for name, value in last.items() if name not in ("epoch", "seconds")}
        final["train_seconds"] = sum(row.get("seconds", 0.0) for row in self._rows)
        final |= {"parameters": plain.parameters, "multiply_adds": plain.multiply_adds}
        final["model_kib"] = packed_kib(self.model, plain.parameters)
        final |= self._about_teachers()
        self._metrics = {
            "epochs": self._rows,
            "final": final,
            "environment": environment(self.device, self.threads, recipe.optim.dtype),
            "warnings": self._warnings,
        }
        weights = {name: value.detach().cpu().contiguous() for name, value in canonical_state(self.model).items()}
        self.store.write(self.key, recipe.model_dump(mode="json"), self._metrics, save(weights))
        self.store.drop_checkpoints(self.key)
        self.close()

    @torch.no_grad()
    def _about_teachers(self) -> dict[str, float]:
        """``teacher_accuracy``: mean of the teachers' accuracies in percent, on the images the student is measured on;
        ``teacher_entropy``: mean entropy in nats of the labels they give there, softened at this recipe's temperature."""
        distill, guidance = self.recipe.distill, self._training.guidance
        if distill is None or guidance is None:
            return {}
        split = "test" if self.dataset.validation is None else "validation"
        labels = self.dataset.split(split).labels.to(self.device)
        if self.cotrained is not None:
            answers = [answered(self.cotrained, self.dataset, split, self.device, self.recipe.optim.dtype)]
        else:
            answers = [teacher.answers(self.dataset, split) for teacher in guidance.teachers]
        accuracies = [float((answer.argmax(1) == labels).double().mean()) for answer in answers]
        probabilities = soft_targets(answers, distill.loss.model_copy(update={"soft": "kl"}), distill.temperature)
        return {"teacher_accuracy": 100 * sum(accuracies) / len(accuracies), "teacher_entropy": float(entropy(probabilities).mean())}
