"""Fine-tuning: a head on a pre-trained encoder, both trained on labels, beside random weights.

Takes seconds to import (Lightning): nothing that `import multimask` loads comes here.
"""

from multimask.finetuning.classifier import Classifier, Head, Predictions
from multimask.finetuning.curve import LabelCurve, LabelShare, label_curve
from multimask.finetuning.finetune import Finetuned, Finetuning, finetune

__all__ = [
    "Classifier",
    "Finetuned",
    "Finetuning",
    "Head",
    "LabelCurve",
    "LabelShare",
    "Predictions",
    "finetune",
    "label_curve",
]
