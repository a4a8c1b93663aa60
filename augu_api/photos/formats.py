"""Which format a file has, by its first bytes."""

import re

SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "WebP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)",
    "BMP": rb"BM.{4}\x00{4}",
    "TIFF": rb"II[*+]\x00|MM\x00[*+]",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "ICO": rb"\x00\x00\x01\x00[^\x00]\x00",
    "PDF": rb"%PDF-",
    "SVG": rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--[^>]{0,500}>\s*)?<svg[\s>]",
    "HTML": rb"(?i:\s*(?:<!doctype html|<html|<head|<body))",
    "gzip": rb"\x1f\x8b\x08",
    "ZIP": rb"PK\x03\x04",
}
HEAD = 1024  # bytes that are looked at
PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in SIGNATURES.items()}


def name_of(data: bytes) -> str:
    """The name of a format that is often sent instead of PNG, or nothing if it is none of these."""
    head = data[:HEAD]
    return next((name for name, pattern in PATTERNS.items() if pattern.match(head)), "")
