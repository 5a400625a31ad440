"""The data sets that are known by name, one line each."""

from tacit.data.source import Source
from tacit.data.sources.beijing_air import BEIJING_AIR
from tacit.data.sources.bundled import BREAST_CANCER, DIABETES, DIGITS, WINE
from tacit.data.sources.credit_default import CREDIT_DEFAULT
from tacit.data.sources.heart_disease import HEART_DISEASE
from tacit.data.sources.mnist import MNIST
from tacit.data.sources.shakespeare import SHAKESPEARE

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        BREAST_CANCER,
        DIGITS,
        WINE,
        DIABETES,
        HEART_DISEASE,
        MNIST,
        SHAKESPEARE,
        CREDIT_DEFAULT,
        BEIJING_AIR,
    )
}
