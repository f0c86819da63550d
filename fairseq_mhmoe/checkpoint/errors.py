"""What can be wrong with a checkpoint file, as errors that name the file, the reason and the remedy."""


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, cut, changed, or belongs to another checkpoint.

    Attributes:
        file: the damaged file or folder, str.
        reason: what is wrong with it, for a sentence that begins with the file.
    """

    def __init__(self, file, reason: str):
        # both as args, so that the error can be pickled and sent to other ranks
        super().__init__(str(file), reason)
        self.file, self.reason = str(file), reason

    def __str__(self):
        return (
            f"{self.file}: {self.reason}. Restore it from a copy, or take an earlier checkpoint of the same folder "
            "(--restore-file)"
        )


class ForeignCheckpoint(ValueError):
    """A file that is whole, but could only be read by running code that it names.

    Attributes:
        file: the file, str.
        type_name: the first type or function in it that is not allowed, or what the reader said.
    """

    def __init__(self, file, type_name: str):
        super().__init__(str(file), type_name)
        self.file, self.type_name = str(file), type_name

    def __str__(self):
        return (
            f"{self.file} is refused: reading it would run code, it holds {self.type_name}. If you trust whoever wrote "
            f"it, set MHMOE_TRUST_CHECKPOINT={self.file}"
        )
