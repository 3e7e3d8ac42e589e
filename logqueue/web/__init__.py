"""HTTP: bytes in, bytes out.  Imports neither `os` nor `mmap` nor the storage."""
