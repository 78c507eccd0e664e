"""Every error this package raises on purpose.

::

    SscdOpsError
    |-- ConfigError              a setting is wrong: names file, key and remedy (exit code 2)
    |-- UsageError               a command or call that cannot mean anything (exit code 2)
    |-- MissingExtra             an optional package is needed: names the pip command
    |-- TransientError           may work when tried again: Airflow retries these
    |   |-- StoreUnavailable
    |   |-- CatalogUnavailable
    |   |-- CommitConflict       another process was quicker too many times
    |   `-- FileRemoved          vacuum took a file away before its row was written
    |-- DataError                trying again cannot help: a person must look
    |   |-- SourceChanged        a source file changed or vanished after plan listed it
    |   |-- BatchHeld            the guard holds the batch until it is released
    |   |-- OrderHeld            it changes too much for one person: another one approves it
    |   |-- OrderNotApplicable   refused, reverted, or not in a fitting state
    |   |-- EffectChanged        an order would change something else than its draft said
    |   |-- BatchNotRunnable     abandoned, bound to another live run, or not in a fitting state
    |   |-- FingerprintMismatch  descriptors of different fingerprints are never compared
    |   |-- MissingDescriptors   embed indexes must be cleared before resolve can go on
    |   |-- StoreRefused         storage says no: a right, credentials, a read-only disk
    |   |-- WeightsUnavailable   model weights could not be found or fetched
    |   `-- BrokenShard          a tar's fault, on its way to becoming a quarantine row
    `-- InvariantError           catalog and files disagree, or code broke a promise
        |-- FileMismatch         a file is missing or its sha256 differs from the catalog's
        |-- CatalogBehind        the root has snapshots that the catalog forgot: a restored dump
        `-- StaleAttempt         a write of an attempt that is no longer the batch's

What goes wrong with one sample or one source shard is never an exception that leaves a step: it
becomes a quarantine row (``model.Fault``). Messages name the thing, the reason and the remedy.
"""

from __future__ import annotations

from sscd_ops.masking import masked


class SscdOpsError(Exception):
    """Base of all errors of this package. What it says never holds a secret."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(masked(item) if isinstance(item, str) else item for item in args))


class ConfigError(SscdOpsError):
    """A setting is unknown or wrong; the message names file, key and what was expected."""


class UsageError(SscdOpsError):
    """A command or call that cannot mean anything, or is ambiguous."""


class MissingExtra(SscdOpsError):
    """An optional package is missing; the message names the pip command that adds it."""


class TransientError(SscdOpsError):
    """Something that may work when tried again."""


class StoreUnavailable(TransientError):
    """Storage did not answer."""


class CatalogUnavailable(TransientError):
    """Postgres did not answer, or a lock was not granted in time."""


class CommitConflict(TransientError):
    """Another process changed the dataset again and again while this one tried to."""


class FileRemoved(TransientError):
    """`vacuum` removed a file before a row named it; a retry writes both."""


class DataError(SscdOpsError):
    """Trying again cannot help: a person must look. Airflow does not retry these."""


PUT_BACK = "put the original back and run the night again (in Airflow: clear the run from plan)"
"""What to do about ``SourceChanged``, for its messages."""


IS_MISSING = "is missing"
"""What messages say of a file of the root that is not there."""


class StoreRefused(DataError):
    """Storage says no, and will again: names the place, the reason and the remedy."""


class SourceChanged(DataError):
    """A source file changed or vanished after plan listed it and before it was published."""


class BatchHeld(DataError):
    """The guard holds the batch; the message carries the figures and both ways on."""


class OrderHeld(DataError):
    """An order changes more than one person may decide alone; the message names both ways on."""


class OrderNotApplicable(DataError):
    """An order was refused or reverted, or is in no state for this."""


class EffectChanged(DataError):
    """What an order would change is not what its draft said; a new draft was stored."""


class BatchNotRunnable(DataError):
    """The batch is abandoned, bound to another live run, or in no state for this step."""


class FingerprintMismatch(DataError):
    """Two fingerprints meet where only one can be compared."""


class MissingDescriptors(DataError):
    """Resolve needs descriptors that no embed task has written; names what to clear."""


class WeightsUnavailable(DataError):
    """Model weights could not be found or fetched; names file, URL and where to put it."""


class BrokenShard(DataError):
    """A tar cannot be read on. Readers turn it into the shard's fault; it never leaves a step.

    Attributes:
        code: a ``model.Fault`` of a whole shard.
        message: what exactly was wrong.
        member: the file inside whose data it broke; empty where that is not known.
        between: it ended behind a whole entry, where another header or the end mark belongs.
        ended: it broke behind an end mark, so that every member before it is whole.
    """

    def __init__(self, code: str, message: str, *, member: str = "", between: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.member = member
        self.between = between
        self.ended = False


class InvariantError(SscdOpsError):
    """Catalog and files disagree, or this code broke one of its own promises."""


class FileMismatch(InvariantError):
    """A named file is missing or has another sha256 than the catalog says."""


class CatalogBehind(InvariantError):
    """The root has snapshots that the catalog does not: an older dump of it was restored."""


class StaleAttempt(InvariantError):
    """A write that belongs to an attempt which is no longer the batch's current one."""
