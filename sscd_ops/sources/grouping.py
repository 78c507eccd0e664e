"""Members -> samples, by the WebDataset rule."""

from __future__ import annotations

from sscd_ops.model import Fault, Member, RawSample


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: the key ends at the first dot of the last path part.

    The extension is lower-cased; it is empty where there is no dot, or nothing before it.
    """
    start = max(name.rfind("/"), name.rfind("\\")) + 1  # Windows writes backslashes
    dot = name.find(".", start)
    if dot <= start:
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


class Grouper:
    """Puts adjacent members of one key together.

    A key that comes again later, or an extension that comes twice in a run, starts a new sample
    with a higher occurrence, which carries ``duplicate_key``.

    Args:
        max_members: a run longer than this is cut and carries ``too_many_members``.
    """

    def __init__(self, max_members: int) -> None:
        self._max = max_members
        self._seen: dict[str, int] = {}
        self._open: RawSample | None = None
        self._extensions: set[str] = set()
        self._dropped = 0
        self._before = 0
        self._lacking = ("", "")

    def add(self, key: str, member: Member) -> RawSample | None:
        """Take a member; the sample before it, where that one is complete."""
        complete, current = None, self._open
        if current is None or current.key != key or member.extension in self._extensions:
            complete = self.close()
            current = self._begin(key)
        if len(current.members) >= self._max:
            self._dropped += 1
        else:
            current.members.append(member)
            self._extensions.add(member.extension)
        return complete

    def _begin(self, key: str) -> RawSample:
        occurrence = self._seen.get(key, 0)
        self._seen[key] = occurrence + 1
        fault = None
        if occurrence:
            fault = (
                Fault.DUPLICATE_KEY,
                "the key came before in this shard, or this extension of it; members of one sample"
                " stand together in a tar (tar --sort=name)",
            )
        elif self._lacking[0] == key:
            fault = (Fault.BAD_MEMBER, self._lacking[1])
        self._lacking = ("", "")
        self._open = RawSample(key, occurrence, [], fault)
        self._extensions = set()
        self._dropped = 0
        return self._open

    def lack(self, key: str, why: str) -> None:
        """A member of this key has no bytes that can be read: its sample carries ``bad_member``.

        Where nothing else has this key, there is no sample.
        """
        if self._open is None or self._open.key != key:
            self._lacking = key, why
        elif self._open.fault is None:
            self._open.fault = (Fault.BAD_MEMBER, why)

    def close(self) -> RawSample | None:
        """The last sample, where there is one."""
        current, self._open = self._open, None
        if current is None:
            return None
        if self._dropped and current.fault is None:
            count = len(current.members) + self._dropped
            current.fault = (Fault.TOO_MANY_MEMBERS, f"{count} members, at most {self._max}")
        self._before = len(current.members)
        return current

    def cut(self, member: str, *, between: bool) -> str:
        """The shard broke here: leave out the open sample where it may have lost members.

        It has not where a member of another key had begun. Where the archive only lacks its end
        mark, it is taken for whole if it has as many members as the sample before it: a file can
        also have been cut just there.

        Args:
            member: the file that was cut; empty where that is not known.
            between: the shard ended between two members.

        Returns:
            The key of the sample that was cut off; empty where none was.
        """
        key, extension = split_name(member)
        if extension and (self._open is None or self._open.key != key):
            return key
        if self._open is None or (between and len(self._open.members) >= self._before):
            return ""
        key, self._open = self._open.key, None
        return key
