"""Images by bucket, on a disk and on S3."""

from pipeline.identity import image_key
from pipeline.images import StoredImage, stored_images
from pipeline.storage import open_store


def keys(images: list[StoredImage]) -> list[str]:
    return [image.key for image in images]


def test_a_bucket_has_the_images_of_its_samples_and_no_other_objects(root: str) -> None:
    store = open_store(root)
    mine = [image_key(f"ab{index}", edit, "f" * 64) for index in range(2) for edit in ("d", "e")]
    for key in (*mine, image_key("ac0", "e", "f" * 64), "images/ab0/notes.txt", "images/ab.txt"):
        store.write(key, b"1")
    with stored_images(store) as images_of:
        assert keys(images_of("ab", [])) == mine
        assert keys(images_of("ff", ["ff-named-by-a-row-alone"])) == []
        assert images_of("ab", ["ab0"])[0].size == 1


def test_an_image_that_comes_later_is_there_where_a_row_names_its_sample(root: str) -> None:
    store = open_store(root)
    with stored_images(store) as images_of:
        key = image_key("ab0", "e", "f" * 64)
        store.write(key, b"1")
        assert keys(images_of("ab", ["ab0"])) == [key]


def test_an_image_that_went_is_not_told(root: str) -> None:
    store, key = open_store(root), image_key("ab0", "e", "f" * 64)
    store.write(key, b"1")
    with stored_images(store) as images_of:
        store.delete(key)
        assert images_of("ab", ["ab0"]) == []
