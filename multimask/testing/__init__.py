"""Contract checks: what every tokenizer, masker and adapter promises.

Plain functions that raise AssertionError with a sentence. The built-in kinds run them; authors of
plug-ins call the same ones in their own tests.
"""

from multimask.testing.maskers import check_masker
from multimask.testing.modalities import check_adapter, check_modality, check_tokenizer

__all__ = ["check_adapter", "check_masker", "check_modality", "check_tokenizer"]
