"""What a person who accepts a study is told of attributions."""

from client.policy import Policy
from common.metrics.attributions import STATISTICS, attribution_sizes, columns_of, prefixes_of
from common.metrics.evaluation import statistic_of
from common.study import Study


def attribution_texts(study: Study, policy: Policy) -> list[str]:
    """What leaves of attributions under this policy, by outcome, a sentence each."""
    if not study.evaluation.attributions:
        return []
    if not prefixes_of(study):
        return ["of what predictions rest on: nothing, because of the study's privacy"]
    sizes, texts = attribution_sizes(study), []
    num_columns = len(columns_of(study))
    for outcome, prefix in prefixes_of(study).items():
        names = [prefix + name for name in STATISTICS]
        allowed = [f"{statistic_of(n)} {sizes[n]}" for n in names if policy.allows_metric(n)]
        if not policy.allows_metric(names[0]):
            allowed = []
        texts.append(
            "at each evaluation, which follows the last round: what predictions of "
            f"{outcome} rest on, of {num_columns} granularities and features: "
            f"{', '.join(allowed) or 'nothing'}; zeros for what fewer than "
            f"{policy.smallest_group} patients are behind"
        )
    return texts
