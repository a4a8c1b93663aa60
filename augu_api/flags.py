"""What a user may do, as bits, spelled as the original API documents them."""

from enum import IntFlag


class Flag(IntFlag):
    """A user's bitfield; every flag is a permission except BANNED, which is a state."""

    TEXT = 1 << 0
    TEXT_SIMIARITY = 1 << 1  # so spelled in the original
    IMAGES = 1 << 2
    IMAGES_NSFW = 1 << 3
    IMAGES_OBJECTS = 1 << 4
    TEXT_TOXICITY = 1 << 5
    BANNED = 1 << 6
    INFORMATION = 1 << 7
    EXPERIMENTAL = 1 << 8
    TEXT_QUALITY = 1 << 9
    INFORMATION_GITHUB = 1 << 10

    @property
    def names(self) -> list[str]:
        """The names of the single flags in this bitfield, lowest bit first."""
        return [flag.name for flag in self if flag.name]


NO_FLAGS = Flag(0)
DEFAULT_FLAGS = Flag.TEXT | Flag.IMAGES | Flag.INFORMATION
