"""Files and directories of the crash disk: what the disk has, and what it may have by now.

A file is its durable image and every version of each page since.  What a power cut leaves of a page
is any of them: whole, torn between two at 512 bytes, or caught in the middle of a store, for which
`memcpy` promises no order.
"""

from __future__ import annotations

from random import Random
from typing import Literal

PAGE = 4096
SECTOR = 512
WORD = 8

Mood = Literal["none", "all", "all but one", "only one", "mixed"]  # which pages were written back
Version = tuple[bytes, int, int]  # a page, and the range of it that the last store changed


class File:
    """An inode: what readers see, what the disk has, and what it may have by now."""

    def __init__(self, image: bytes, *, synced: bool) -> None:
        self.live = bytearray(image)
        self.durable = bytearray(image)
        self.versions: dict[int, list[Version]] = {}
        self.synced = synced  # its size is durable
        self.maps = 0
        self.lying = False  # a sync failed: clean pages need not be on the disk

    def store(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        assert end <= len(self.live), "a store past the end of the map: SIGBUS"
        self.live[offset:end] = data
        for page in range(offset // PAGE, -(-end // PAGE)):
            at = page * PAGE
            version = bytes(self.live[at : at + PAGE]), max(offset - at, 0), min(end - at, PAGE)
            self.versions.setdefault(page, []).append(version)

    def settle(self, marks: dict[int, int]) -> None:
        """The first `marks[page]` versions of each page are durable."""
        for page, count in marks.items():
            versions = self.versions[page]
            self.durable[page * PAGE : (page + 1) * PAGE] = versions[count - 1][0]
            del versions[:count]
            if not versions:
                del self.versions[page]
        self.synced = True

    def lose(self, random: Random) -> None:
        """The write-back failed: some pages made it, and all of them are called clean."""
        self.durable = self.survivor(random, "mixed")
        self.versions.clear()
        self.lying = True

    def drop_cache(self, offset: int) -> None:
        if self.lying and not self.maps:
            for at in range(offset // PAGE * PAGE, len(self.live), PAGE):
                if at // PAGE not in self.versions:
                    self.live[at : at + PAGE] = self.durable[at : at + PAGE]

    def survivor(self, random: Random, mood: Mood) -> bytearray:
        """What a power cut leaves of the content."""
        image = bytearray(self.durable)
        odd = random.choice(list(self.versions)) if self.versions else -1
        for page, versions in self.versions.items():
            at = page * PAGE
            if mood == "mixed":
                before = bytes(self.durable[at : at + PAGE]), 0, 0
                image[at : at + PAGE] = _pick(random, [before, *versions])
            elif mood == "all" or (mood != "none" and (mood == "only one") == (page == odd)):
                image[at : at + PAGE] = versions[-1][0]
        if not self.synced and mood != "all":
            return image[: random.choice((0, random.randrange(len(image) + 1), len(image)))]
        return image


def _pick(random: Random, versions: list[Version]) -> bytes:
    first = random.randrange(len(versions))
    page = versions[first][0]
    if random.random() < 0.2:  # the last write-back was torn, sector by sector
        other = _seen(random, versions, random.randrange(first, len(versions)))
        return b"".join(
            (page if random.random() < 0.5 else other)[at : at + SECTOR]
            for at in range(0, len(page), SECTOR)
        )
    return _seen(random, versions, first)


def _seen(random: Random, versions: list[Version], at: int) -> bytes:
    """A version as the disk saw it: now and then in the middle of the next store."""
    page = versions[at][0]
    if at + 1 == len(versions) or random.random() < 0.9:
        return page
    newer, start, end = versions[at + 1]
    return page[:start] + partial(random, page[start:end], newer[start:end]) + page[end:]


def partial(random: Random, old: bytes, new: bytes) -> bytes:
    """A store of `new` over `old` that has come half way, from either end or from both.

    One machine word is stored at once.
    """
    if len(new) == WORD:
        return random.choice((old, new))
    cut, other = sorted((random.randrange(len(new) + 1), random.randrange(len(new) + 1)))
    match random.randrange(3):
        case 0:
            return new[:cut] + old[cut:]
        case 1:
            return old[:cut] + new[cut:]
        case _:
            return new[:cut] + old[cut:other] + new[other:]


class Directory:
    """The names in one directory, as they are and as they are on the disk."""

    def __init__(self) -> None:
        self.live: dict[str, File | Directory] = {}
        self.durable: dict[str, File | Directory] = {}


Change = tuple[Directory, str, File | Directory | None]
