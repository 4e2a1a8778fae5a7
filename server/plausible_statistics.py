"""Whether statistics that a site sends can be true: declared, finite, and of the same patients."""

from collections.abc import Mapping

from common.metrics.attributions import attributions_from_flat, is_attribution
from common.metrics.evaluation import PERSONAL, declared_sizes, from_flat
from common.metrics.subgroups import groups_from_flat
from common.privacy.sections import PatientPrivacy
from common.study import Study

# Sums over all rounds of all sites stay finite.
_LARGEST_STATISTIC = 1e15


def fault_of(metrics: Mapping[str, tuple[float, ...]], study: Study) -> str:
    """What is wrong with a site's statistics, in a few words; "" for nothing."""
    sizes = declared_sizes(study)
    is_private = isinstance(study.privacy, PatientPrivacy)
    for name, values in metrics.items():
        if sizes.get(name) != len(values):
            return "statistics that are not declared"
        may_be_negative = is_private or is_attribution(name)
        least = -_LARGEST_STATISTIC if may_be_negative else 0.0
        if not all(least <= value <= _LARGEST_STATISTIC for value in values):
            return "statistics that are negative or not finite"
    try:
        from_flat(study, metrics, model=PERSONAL)
        whole = from_flat(study, metrics)
        groups_from_flat(study, metrics, whole)
        attributions_from_flat(study, metrics, whole)
    except ValueError:
        return "statistics that disagree with one another"
    return ""


def are_of_too_many(metrics: Mapping[str, tuple[float, ...]], study: Study) -> bool:
    """Whether statistics that carry no noise are over more patients than a site may have."""
    if isinstance(study.privacy, PatientPrivacy):
        return False
    most = study.strategy.max_patients_per_site
    return any(v[0] > most for name, v in metrics.items() if name.endswith(".num_patients"))
