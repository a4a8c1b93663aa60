"""Which photos of a set are trained on, and which are held out for validation."""

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

from augu_api.detection.training.photo_sets.content import Photo, PhotoSet
from augu_api.detection.training.photo_sets.report import Report

HOLD_OUT_EVERY = 10  # photos


class Parts(NamedTuple):
    """The photos to train on, and those to choose the best weights by."""

    training: PhotoSet
    validation: PhotoSet


def split(photos: PhotoSet, validation: PhotoSet | None, report: Report) -> Parts:
    """Take other photos for validation, or else hold out one in ten of the same set."""
    if validation:
        parts = Parts(_without(photos, validation, report), validation)
    else:
        out, of = held_out(photos), photos.photos
        trained, held = [one for one in of if one.id not in out], [one for one in of if one.id in out]
        parts = Parts(replace(photos, photos=trained), replace(photos, photos=held))
    if not report.faults and not all(any(photo.objects for photo in part.photos) for part in parts):
        wanted = "photos that are not for validation" if validation else "two photos with objects"
        report.fault(str(photos.path), f"has {len(photos.photos)} photos; training needs {wanted}")
    return parts


def _without(photos: PhotoSet, others: PhotoSet, report: Report) -> PhotoSet:
    """The photos that are not among the others as well."""
    files = {photo.file.resolve() for photo in others.photos}
    kept = []
    for photo in photos.photos:
        if photo.file.resolve() in files:
            report.mend("a photo for validation as well; it is not trained on", photo.name)
        else:
            kept.append(photo)
    return replace(photos, photos=kept)


def held_out(photos: PhotoSet) -> set[int]:
    """The ids of one photo in ten of each category, chosen by their names: the order in the file plays no part.

    A photo counts for the rarest of its categories. The only photo of a category is trained on.
    """
    common = Counter(category for photo in photos.photos for category in photo.objects)
    names = photos.categories
    rarest = {photo.id: min(((common[of], names[of]) for of in photo.objects), default=None) for photo in photos.photos}
    sizes = Counter(rarest.values())

    def order(photo: Photo) -> tuple[bool, int, str, bytes]:
        count, name = rarest[photo.id] or (0, "")
        return not count, -sizes[rarest[photo.id]], name, sha256(photo.name.encode(errors="surrogatepass")).digest()

    shared = [photo for photo in photos.photos if sizes[rarest[photo.id]] > 1]
    if not any(photo.objects for photo in shared):
        shared = [photo for photo in photos.photos if photo.objects]
    return {photo.id for photo in sorted(shared, key=order)[::HOLD_OUT_EVERY]}
