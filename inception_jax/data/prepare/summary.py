"""What was prepared, in words."""

from inception_jax.data.prepare.work import Prepared


def summary(made: Prepared) -> str:
    """A table of the splits, and a line for the work."""
    lines = [f"{'split':<12}{'images':>12}{'shards':>9}{'MB':>12}"]
    for split, images in made.images.items():
        lines.append(f"{split:<12}{images:>12,}{made.shards[split]:>9,}{made.bytes[split] / 1e6:>12,.1f}")
    rate = made.checked / max(made.seconds, 1e-9)
    lines.append(f"checked {made.checked:,} images in {made.seconds:,.1f} s, {rate:,.0f} images/s")
    if made.left_out:
        lines.append(f"broken images left out: {made.left_out:,}, listed in broken.txt")
    return "\n".join(lines)
