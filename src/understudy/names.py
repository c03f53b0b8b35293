"""Names for people: keys such as "stylegan2" stay in files, tables and messages show "StyleGAN 2"."""

from __future__ import annotations

DISPLAY = {
    "progan": "Progressive GAN",
    "stylegan1": "StyleGAN 1",
    "stylegan2": "StyleGAN 2",
    "stylegan3": "StyleGAN 3",
    "diffusion": "Diffusion",
    "unet": "U-Net",
    "swin": "Swin",
}


def display_name(key: str) -> str:
    """What the reader of a table calls a generator or segmenter; a name that the user chose stays as it is.

    Example:
        >>> display_name("progan"), display_name("our-wgan")
        ('Progressive GAN', 'our-wgan')
    """
    return DISPLAY.get(key, key)
