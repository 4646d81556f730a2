"""Fine-tuning: a head on a pre-trained encoder, both trained on labels, beside random weights.

Takes seconds to import (Lightning): nothing that `import multimask` loads comes here.
"""

from multimask.finetuning.classifier import Classifier, Head, Predictions
from multimask.finetuning.curve import LabelCurve, LabelShare, label_curve
from multimask.finetuning.dense import DenseClassifier
from multimask.finetuning.finetune import Finetuned, Finetuning, finetune
from multimask.finetuning.segmentation import Overlap, Segmented, Segmenting, overlap, segment

__all__ = [
    "Classifier",
    "DenseClassifier",
    "Finetuned",
    "Finetuning",
    "Head",
    "LabelCurve",
    "LabelShare",
    "Overlap",
    "Predictions",
    "Segmented",
    "Segmenting",
    "finetune",
    "label_curve",
    "overlap",
    "segment",
]
