"""Lists among the options of an audit."""

import pytest

from egup_trainer.audit.audit_options import AuditOptions
from egup_trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"relearn_sizes": []}, "relearn_sizes=[]"),
        ({"relearn_sizes": [4, None]}, "relearn_sizes=None"),
        ({"relearn_sizes": [4, True]}, "relearn_sizes=True"),
        ({"relearn_learning_rates": ["a"]}, "relearn_learning_rates=a"),
        ({"relearn_learning_rates": [1e-4, 0]}, "relearn_learning_rates=0"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(options, got):
    with pytest.raises(ConfigError) as caught:
        AuditOptions(**options)
    assert caught.value.got == got
