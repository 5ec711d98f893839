"""Helpers for the tests of sources: an image, an expected error, and a bucket in memory."""

import io

import PIL.Image
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from inception_jax.data import open_source
from inception_jax.errors import UserError


def jpeg(value=128, size=(12, 10)):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def expect(pattern, spec, split="train", **options):
    with pytest.raises(UserError, match=pattern) as caught:
        open_source(spec, split, **options)
    assert "\n" not in str(caught.value)


class BucketInMemory(MemoryFileSystem):
    """Stands in for gs://; the next calls of a method raise `failures[method]`, and `calls` lists all."""

    protocol = "gs"
    store: dict = {}
    pseudo_dirs: list = [""]
    failures: dict = {}
    calls: list = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def _call(self, method, path):
        self.calls.append((method, self._strip_protocol(path)))
        if self.failures.get(method):
            raise self.failures[method].pop()

    def ls(self, path, detail=True, **kwargs):
        self._call("ls", path)
        return super().ls(path, detail=detail, **kwargs)

    def find(self, path, **kwargs):
        self._call("find", path)
        return super().find(path, **kwargs)

    def cat_file(self, path, **kwargs):
        self._call("cat_file", path)
        return super().cat_file(path, **kwargs)

    def get_file(self, rpath, lpath, **kwargs):
        self._call("get_file", rpath)
        super().get_file(rpath, lpath, **kwargs)


def bucket_in_memory(monkeypatch):
    """An empty `BucketInMemory` behind gs://, and no pause between attempts, until the test ends."""
    monkeypatch.setitem(_registry, "gs", BucketInMemory)
    for name, value in (("store", {}), ("pseudo_dirs", [""]), ("failures", {}), ("calls", [])):
        monkeypatch.setattr(BucketInMemory, name, value)
    monkeypatch.setattr("inception_jax.data.sources.retry._PAUSES", (0, 0, 0, 0))
    return BucketInMemory()
