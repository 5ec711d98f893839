"""Summary of a conversion as text."""

from inception_jax.data.prepare.conversion import PreparedDataset


def summary(prepared: PreparedDataset) -> str:
    """Table of the splits, and a line about the work."""
    lines = [f"{'split':<12}{'images':>12}{'shards':>9}{'MB':>12}"]
    for split, images in prepared.images.items():
        lines.append(f"{split:<12}{images:>12,}{prepared.shards[split]:>9,}{prepared.bytes[split] / 1e6:>12,.1f}")
    rate = prepared.checked / max(prepared.seconds, 1e-9)
    lines.append(f"checked {prepared.checked:,} images in {prepared.seconds:,.1f} s, {rate:,.0f} images/s")
    if prepared.left_out:
        lines.append(f"broken images left out: {prepared.left_out:,}, listed in broken.txt")
    return "\n".join(lines)
