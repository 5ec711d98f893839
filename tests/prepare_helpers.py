"""Tars of a few images, as ImageNet's, for the tests of data prepare and of the documentation."""

import io
import tarfile

import PIL.Image


def jpeg(value):
    """A small photograph; every value gives another."""
    image = PIL.Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    image.paste((value % 256, value // 256, 90), (5, 5, 20, 20))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


LONG = "n01443537_" + "9" * 120 + ".JPEG"  # more than the 100 characters of a tar's own header


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


TRAINING = {
    "n15075141.tar": tar({"n15075141_54.JPEG": jpeg(1), "n15075141_2.JPEG": jpeg(2)}),
    "n01440764.tar": tar({"n01440764_18.JPEG": jpeg(3)}),
    "n01443537.tar": tar({LONG: jpeg(4), "n01443537_7.JPEG": jpeg(5)}),
}


# Not in the order of their numbers, as in the published tar.
VALIDATION = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(300 + i) for i in (3, 1, 2)}
