import io

from rich.console import Console

from evaluation.speed.front_door import GRPC, HTTP, Row, ratios, table


def row(way: str, *tokens_per_s: float) -> Row:
    num = len(tokens_per_s)
    return Row(way, 32, list(tokens_per_s), [10.0] * num, [50.0] * num, [150.0] * num, [30.0] * num, [0.5] * num)


def test_ratios_are_those_within_a_repetition() -> None:
    assert ratios(row(GRPC, 100.0, 200.0), row(HTTP, 90.0, 100.0)) == [0.9, 0.5]


def test_table_sets_http_beside_grpc() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table([row(GRPC, 100.0, 200.0, 400.0), row(HTTP, 90.0, 190.0, 380.0)]))
    text = console.export_text()
    assert "1.00 (1.00-1.00)" in text
    assert "0.95 (0.90-0.95)" in text
