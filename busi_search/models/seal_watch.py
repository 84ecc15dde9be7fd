"""Predicting an image that a study has sealed opens that study's test; here it is noticed."""

import uuid
from collections.abc import Sequence

from busi_search.data.image_lookup import ImageLookup
from busi_search.data.images import GreyImage
from busi_search.data.known_images import KnownImages, Membership
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.wording import count_of, verb


class SealedImageWarning(UserWarning):
    """A model predicted sealed test images; the opening is counted."""


class SealWatch:
    """Recognises, by their content, the images that any study of a home has sealed."""

    def __init__(self, home: Home, model: str, version: str) -> None:
        """Watch over the predictions of ``model`` in its ``version`` on ``home``."""
        self._home, self._model, self._version = home, model, version
        self._state: tuple[str, ...] | None = None

    def _prepare(self) -> None:
        """Read the register, again if a study was added meanwhile."""
        known = KnownImages(self._home)
        if not known.exists:
            from busi_search.search.seal_register import register_old_studies

            register_old_studies(self._home)
        state = known.state
        if state == self._state:
            return
        self._known = known
        sealed = {(m.fingerprint, i) for m in known.memberships for i in m.sealed}
        self._places = [p for p in sorted(sealed) if p in known.scans]
        self._lookup = ImageLookup([known.sets[name].images[i] for name, i in self._places])
        self._state = state

    def find(self, images: Sequence[GreyImage]) -> list[frozenset[int]]:
        """Return for each image (H, W) uint8 the sealed scans that it shows; mostly none."""
        self._prepare()
        return [
            frozenset(self._known.scans[self._places[position]] for position in positions)
            for positions in self._lookup.find(images)
        ]

    def settle(
        self,
        found: Sequence[frozenset[int]],
        names: Sequence[str],
        *,
        keep_sealed: bool,
        how: str,
        opening: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Count the opening in the ledger of every study concerned, or refuse.

        Args:
            found: as :meth:`find` gives it, of all images of one question.
            names: what these images are called.
            keep_sealed: refuse instead of counting.
            how: how the model was used: ``predict``, ``serve`` or ``python``.
            opening: the same for all parts of one question, which count once; None: this is all.

        Returns:
            For each image the names of the studies that sealed it, sorted.

        Raises:
            InputError: ``keep_sealed``, and an image is sealed; nothing is counted then.
            BusiSearchError: a ledger was tampered with.
        """
        shown = frozenset().union(*found)
        if not shown:
            return [()] * len(found)
        members = [m for m in self._known.memberships if self._sealed(m) & shown]
        sealed_by = [
            tuple(sorted({m.study for m in members if self._sealed(m) & scans})) for scans in found
        ]
        if keep_sealed:
            first = next(i for i, studies in enumerate(sealed_by) if studies)
            raise InputError(
                f"{names[first]}: {sealed_sentence(sealed_by)}; nothing was predicted. Leave "
                "them out, or predict without keep-sealed, which counts the opening."
            )
        from busi_search.search.seal_register import note_opening

        opening = opening or uuid.uuid4().hex
        content = {"model": self._model, "version": self._version, "how": how}
        for member in members:
            note_opening(
                self._home,
                member,
                images=self._digests(member, shown),
                opening=opening,
                content=content,
            )
        return sealed_by

    def _sealed(self, member: Membership) -> frozenset[int]:
        return self._known.scans_of(member.fingerprint, member.sealed)

    def _digests(self, member: Membership, shown: frozenset[int]) -> list[str]:
        name = member.fingerprint
        digests = self._known.sets[name].digests
        return [digests[i] for i in member.sealed if self._known.scans.get((name, i)) in shown]


def sealed_sentence(sealed_by: Sequence[tuple[str, ...]]) -> str:
    """Return how many images are sealed and by whom, as the beginning of a sentence.

    Args:
        sealed_by: for each image the names of the studies that sealed it.
    """
    num_sealed = sum(map(bool, sealed_by))
    names = sorted({name for names in sealed_by for name in names})
    studies = f"{'study' if len(names) == 1 else 'studies'} " + ", ".join(map(repr, names))
    belongs = verb(num_sealed, "belongs", "belong")
    images = count_of(len(sealed_by), "image")
    return f"{num_sealed} of {images} {belongs} to the sealed test of {studies}"
