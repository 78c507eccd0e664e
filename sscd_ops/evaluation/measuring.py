"""Running a task with a model: every number of a ``ModelResult``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.canonical import pair_similarities
from sscd_ops.errors import UsageError
from sscd_ops.evaluation.contenders import Contender
from sscd_ops.evaluation.describing import (
    Described,
    describe,
    fit_whitening,
    nearest,
    score_bias,
)
from sscd_ops.evaluation.lookalikes import HardResult, HardSet, judge
from sscd_ops.evaluation.metrics import (
    OperatingPoint,
    Scored,
    Summary,
    bootstrap,
    ranking,
    summarise,
    trapezoid_ap,
    wilson,
)
from sscd_ops.evaluation.results import (
    BINS,
    AtThreshold,
    Histogram,
    KindResult,
    ModelResult,
    Shown,
    Variant,
)
from sscd_ops.evaluation.tail import false_matches, find_peaks
from sscd_ops.evaluation.tasks import Task
from sscd_ops.evaluation.transformations import BY_NAME, Kind
from sscd_ops.model import Matches
from sscd_ops.ports import Embedder, Rooms


@dataclass(frozen=True)
class Measuring:
    """How a task is measured."""

    threshold: float | None = None
    replicates: int = 200
    seed: int = 0
    whiten_to: int = 0


def measure(
    rooms: Rooms,
    task: Task,
    contender: Contender,
    measuring: Measuring,
    hard: Sequence[HardSet] = (),
) -> ModelResult:
    """Evaluate one model on a task.

    Args:
        rooms: the product's parts.
        task: what is asked.
        contender: the model.
        measuring: threshold and bootstrap.
        hard: sets of look-alikes.
    """
    threshold = contender.model.threshold_for(measuring.threshold)
    with contender.open(False) as embedder:
        run = _Run(rooms, task, embedder)
        result = run.result(threshold, measuring)
        if contender.postprocessed and measuring.threshold is None:
            result.notes.append(
                f"{contender.name}'s threshold was measured without postprocessing, which moves"
                " every similarity: choose one by the precisions here, and give --threshold"
            )
    if hard:
        result.hard.extend(_judged(rooms, contender, threshold, hard))
    return result


def _judged(
    rooms: Rooms, contender: Contender, threshold: float, hard: Sequence[HardSet]
) -> Iterator[HardResult]:
    """Sets of look-alikes, hashed as well where a night with the model would."""
    with contender.open(contender.model.perceptual) as embedder:
        backend = rooms.backend("flat", embedder.fingerprint.digest, embedder.dimensions, threshold)
        for item in hard:
            described = describe(embedder, item.pictures, rooms.progress, item.name)
            yield judge(item, described, threshold, backend, rooms.hash_search())


class _Run:
    """A task's descriptors under one model."""

    def __init__(self, rooms: Rooms, task: Task, embedder: Embedder) -> None:
        self.rooms = rooms
        self.task = task
        self.embedder = embedder
        self.references = describe(embedder, task.references, rooms.progress, "references")
        self.queries = describe(embedder, task.queries, rooms.progress, "queries")
        self.training: Described | None = None
        if task.training is not None:
            self.training = describe(embedder, task.training, rooms.progress, "training")

    def result(self, threshold: float, measuring: Measuring) -> ModelResult:
        """All of it, without the sets of look-alikes."""
        task, embedder = self.task, self.embedder
        found = self._nearest(self.queries.descriptors, self.references.descriptors)
        plain = self._scored(found, found.similarity)
        notes: list[str] = []
        variants = [Variant("plain", self._summary(plain, measuring))]
        variants += self._other_variants(found, measuring, notes)
        similarity = self._true_similarities()
        peaks = find_peaks(self._strangers().descriptors, seed=measuring.seed)
        points = variants[0].summary.points
        thresholds = [threshold, *(p.threshold for p in points.values() if p is not None)]
        embedded = len(self.references) + len(self.queries)
        seconds = self.references.seconds + self.queries.seconds
        left_out: Counter[str] = self.references.faults + self.queries.faults
        copydays = task.protocol == "copydays"
        result = ModelResult(
            model=embedder.fingerprint.model,
            fingerprint=str(embedder.fingerprint),
            runtime=embedder.runtime(),
            embedded=embedded,
            images_per_second=embedded / seconds if seconds else 0.0,
            left_out=dict(left_out),
            variants=variants,
            at_threshold=self._at_threshold(plain, similarity, threshold, measuring),
            kinds=self._kinds(plain, similarity, threshold, points),
            histogram=self._histogram(plain, similarity),
            false_matches=[
                false_matches(peaks, t, replicates=measuring.replicates, seed=measuring.seed)
                for t in dict.fromkeys(thresholds)
            ],
            hard=[],
            overall_trapezoid_ap=self._overall(plain) if copydays else None,
            notes=notes,
        )
        result.missed = self._missed(similarity, threshold)
        result.look_alike = self._look_alike(plain)
        result.plain = plain
        return result

    # ------------------------------------------------------------ rankings

    def _nearest(self, queries: NDArray[np.float16], references: NDArray[np.float16]) -> Matches:
        return nearest(queries, references, self.task.neighbours, self.rooms.progress)

    def _scored(self, found: Matches, score: NDArray[np.float64]) -> Scored:
        """Predictions in the task's rows."""
        return Scored(
            self.queries.rows[found.query],
            self.references.rows[found.reference],
            score,
            self.task.truth,
            self.task.picture,
        )

    def _summary(self, scored: Scored, measuring: Measuring) -> Summary:
        return summarise(scored, replicates=measuring.replicates, seed=measuring.seed)

    def _other_variants(
        self, found: Matches, measuring: Measuring, notes: list[str]
    ) -> list[Variant]:
        """With score normalisation, with whitening, with both; what cannot be done is noted."""
        if self.training is None:
            notes.append(
                "whitening and score normalisation need --training: pictures that are no copies of"
                " these"
            )
            return []
        background = self.training.descriptors
        answer: list[Variant] = []
        queries, references = self.queries.descriptors, self.references.descriptors
        for name in ("", "whitened"):
            try:
                if name:
                    whitening = fit_whitening(background, measuring.whiten_to)
                    queries, references, background = (
                        whitening.apply(part) for part in (queries, references, background)
                    )
                    found = self._nearest(queries, references)
                    scored = self._scored(found, found.similarity)
                    answer.append(Variant(name, self._summary(scored, measuring)))
                bias = score_bias(queries, background)
                normed = self._scored(found, found.similarity - bias[found.query])
                label = f"{name} + score norm" if name else "score norm"
                answer.append(Variant(label, self._summary(normed, measuring)))
            except UsageError as error:
                notes.append(str(error))
        return answer

    def _true_similarities(self) -> NDArray[np.float64]:
        """float64 (g,): similarity of each true pair; -inf where one has no descriptor."""
        query = _places(self.queries.rows, len(self.task.queries))[self.task.truth[:, 0]]
        reference = _places(self.references.rows, len(self.task.references))[self.task.truth[:, 1]]
        answer = np.full(len(query), -np.inf)
        both = (query >= 0) & (reference >= 0)
        answer[both] = pair_similarities(
            self.queries.descriptors, self.references.descriptors, query[both], reference[both]
        )
        return answer

    def _strangers(self) -> Described:
        if self.task.strangers is None:
            return self.references
        return describe(self.embedder, self.task.strangers, self.rooms.progress, "originals")

    # ------------------------------------------------------------ figures

    def _at_threshold(
        self,
        plain: Scored,
        similarity: NDArray[np.float64],
        threshold: float,
        measuring: Measuring,
    ) -> AtThreshold:
        found = similarity >= threshold
        of_truth = self.task.picture[self.task.truth[:, 0]]
        called = plain.score >= threshold
        right = int((called & plain.positive).sum())
        recall = float(found.mean()) if len(found) else 0.0

        def share(drawn: NDArray[np.float64]) -> float:
            weight = drawn[of_truth]
            return float((weight * found).sum() / weight.sum()) if weight.sum() else recall

        interval = None
        if measuring.replicates:
            pictures = int(self.task.picture.max(initial=-1)) + 1
            interval = bootstrap(
                share,
                pictures,
                replicates=measuring.replicates,
                seed=measuring.seed,
                telling=len(np.unique(of_truth)),
            )
        return AtThreshold(
            threshold,
            recall,
            interval,
            right / int(called.sum()) if called.any() else None,
            int(called.sum()) - right,
            len(self.task.queries),
        )

    def _kinds(
        self,
        plain: Scored,
        similarity: NDArray[np.float64],
        threshold: float,
        points: dict[str, OperatingPoint | None],
    ) -> list[KindResult]:
        of_truth = [self.task.kind[query] for query in self.task.truth[:, 0]]
        answer = []
        for kind in dict.fromkeys(kind for kind in of_truth if kind is not None):
            mine = similarity[[one == kind for one in of_truth]]
            found = int((mine >= threshold).sum())
            known = BY_NAME.get(kind.transformation)
            answer.append(
                KindResult(
                    kind,
                    self.task.protocol == "make-copies" and known is not None and known.unseen,
                    len(mine),
                    found / len(mine),
                    wilson(found, len(mine)),
                    {
                        name: None if p is None else float((mine >= p.threshold).mean())
                        for name, p in points.items()
                    },
                    float(np.median(mine)),
                    self._mean_ap(plain, kind) if self.task.protocol == "copydays" else None,
                )
            )
        return answer

    def _mean_ap(self, plain: Scored, kind: Kind) -> float:
        """Copydays' mAP of a block: trapezoid rule, the block's queries alone."""
        positive = plain.positive
        truths = Counter(self.task.truth[:, 0].tolist())
        values = []
        for query in [row for row, one in enumerate(self.task.kind) if one == kind]:
            mine = np.flatnonzero(plain.query == query)
            order = mine[ranking(plain.score[mine], positive[mine])]
            values.append(trapezoid_ap(np.flatnonzero(positive[order]), truths[query]))
        return float(np.mean(values)) if values else 0.0

    def _overall(self, plain: Scored) -> float:
        """Copydays' uAP: all results pooled, trapezoid rule, a true one for every query."""
        positive = plain.positive
        order = ranking(plain.score, positive)
        return trapezoid_ap(np.flatnonzero(positive[order]), len(self.task.queries))

    def _wrong(self, plain: Scored) -> NDArray[np.int64]:
        """Each query's most similar wrong prediction: rows of the predictions."""
        wrong = np.flatnonzero(~plain.positive)
        _, first = np.unique(plain.query[wrong], return_index=True)
        return wrong[first]

    def _histogram(self, plain: Scored, similarity: NDArray[np.float64]) -> Histogram:
        def count(values: NDArray[np.float64]) -> list[int]:
            inside = np.clip(values, BINS[0], BINS[-1])
            return [int(value) for value in np.histogram(inside, BINS)[0]]

        return Histogram(
            [round(float(edge), 4) for edge in BINS],
            count(similarity[np.isfinite(similarity)]),
            count(plain.score[self._wrong(plain)]),
        )

    # ------------------------------------------------------------ pairs to look at

    def _missed(self, similarity: NDArray[np.float64], threshold: float) -> list[Shown]:
        """Missed copies, the mildest transformations first, then those nearest the threshold."""
        below = np.flatnonzero((similarity < threshold) & np.isfinite(similarity))
        severity = np.array(
            [getattr(self.task.kind[q], "severity", 0) for q in self.task.truth[below, 0]]
        )
        answer: list[Shown] = []
        seen: Counter[str] = Counter()
        for at in np.lexsort((-similarity[below], severity)):
            query, reference = self.task.truth[below[at]]
            kind = self.task.kind[query]
            said = f"{kind.transformation} {kind.severity}" if kind else ""
            if kind is None or not seen[kind.transformation]:
                answer.append(Shown(int(query), int(reference), float(similarity[below[at]]), said))
                seen[kind.transformation if kind else ""] += 1
            if len(answer) == 10:
                break
        return answer

    def _look_alike(self, plain: Scored) -> list[Shown]:
        """The most similar pairs that are no copies: false matches, or copies nobody named."""
        wrong = self._wrong(plain)
        answer: list[Shown] = []
        seen: set[tuple[int, int]] = set()
        for at in wrong[np.argsort(-plain.score[wrong], kind="stable")]:
            query, reference = int(plain.query[at]), int(plain.reference[at])
            pair = (int(self.task.picture[query]), reference)
            if pair not in seen:
                seen.add(pair)
                kind = self.task.kind[query]
                said = f"{kind.transformation} {kind.severity}" if kind else ""
                answer.append(Shown(query, reference, float(plain.score[at]), said))
            if len(answer) == 10:
                break
        return answer


def _places(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Place of each picture among those with a descriptor, -1 without one."""
    answer = np.full(count, -1, np.int64)
    answer[rows] = np.arange(len(rows))
    return answer
