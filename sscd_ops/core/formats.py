"""Formats of pictures: the extensions they come with, and how their files begin. Pure."""

from __future__ import annotations

CANONICAL = {
    other: name
    for name, others in {
        "jpg": "jpeg jpe jfif jfi jif pjpeg pjp mpo",
        "png": "apng",
        "avif": "avifs",
        "bmp": "dib",
        "tiff": "tif",
        "jp2": "j2k j2c jpc jpf jpx jpg2",
    }.items()
    for other in others.split()
}
"""Other extensions of an image format -> the published one, which readers know."""
IMAGE_EXTENSIONS = frozenset(
    {"jpg", "png", "webp", "avif", "gif", "bmp", "tiff", "jp2", *CANONICAL}
)
"""Extensions of pictures that are read."""
_UNREAD = """
heic heics heif heifs hif jxl jxr wdp hdp bpg flif qoi psd psb xcf kra svg svgz eps wmf emf cgm
ico cur icns tga icb vda vst pcx dcx ppm pgm pbm pnm pfm pam xbm xpm dds exr hdr sgi ras
dng cr2 cr3 crw nef nrw arw sr2 srf orf rw2 raf pef srw x3f 3fr erf kdc dcr mrw mos iiq rwl
"""
UNREAD_IMAGE_EXTENSIONS = frozenset(_UNREAD.split())
"""Extensions of pictures in formats that are not read: such a sample is quarantined, by name."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xffO\xffQ", "jp2"),
)
_BRANDS_OF_AVIF = (b"avif", b"avis", b"mif1", b"miaf")


def sniff(data: bytes) -> str:
    """The format that a picture's first bytes say, by our name; empty for none that is read."""
    for beginning, found in _BEGINNINGS:
        if data.startswith(beginning):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if data[4:8] == b"ftyp" and data[8:12] in _BRANDS_OF_AVIF else ""
