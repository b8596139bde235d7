"""Tar archives, read to their end or not at all."""

import tarfile


class StrictHeader(tarfile.TarInfo):
    """tarfile takes a damaged or missing header behind the first for the end of the archive, and
    drops what follows without a word; with ``tarinfo=StrictHeader`` it raises.

    Raises:
        tarfile.ReadError: The archive is cut or damaged there.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "StrictHeader":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the block of zeros at its end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut or damaged, {error}") from None
