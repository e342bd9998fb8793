"""What every routing rule must pass, for those who write one. Needs the extra `rules-testing`.

    from services.rule_suite import check_rule

    def test_my_rule_keeps_what_every_rule_must():
        check_rule(MyRule())

A rule is broken where a token would depend on anything but the prefix and the draft: on batches, on the order of
messages, on replicas, losses or time. `RuleBroken` says what it breaks, how, and after which example.
"""

from services.rule_suite.suite import RuleBroken, check_rule

__all__ = ["RuleBroken", "check_rule"]
