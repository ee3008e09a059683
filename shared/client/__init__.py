"""How programs talk to the four services: typed calls over httpx, problems as exceptions, long work followed to its end."""

from shared.client.detector import DetectorClient
from shared.client.failures import (
    ConflictProblemError,
    ForbiddenProblemError,
    InvalidRequestProblemError,
    MitigationProblemError,
    NotFoundProblemError,
    ProblemError,
    UnauthenticatedProblemError,
    UnavailableProblemError,
    UnexpectedAnswerError,
)
from shared.client.lethe import LetheClient
from shared.client.mitigator import MitigatorClient
from shared.client.replies import Operation, Progress
from shared.client.sampler import SamplerClient
from shared.client.trainer import TrainerClient

__all__ = [
    "ConflictProblemError",
    "DetectorClient",
    "ForbiddenProblemError",
    "InvalidRequestProblemError",
    "LetheClient",
    "MitigationProblemError",
    "MitigatorClient",
    "NotFoundProblemError",
    "Operation",
    "ProblemError",
    "Progress",
    "SamplerClient",
    "TrainerClient",
    "UnauthenticatedProblemError",
    "UnavailableProblemError",
    "UnexpectedAnswerError",
]
