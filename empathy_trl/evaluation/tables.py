"""Small pieces of which reports are made."""


def markdown(rows: list[list]) -> str:
    """Return a Markdown table; the first row is the header."""
    header, *body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([header, "|---" * len(rows[0]) + "|", *body])


def both_texts(rows) -> list[str]:
    """Return the text of every row, of a pair both with a bar between them."""
    if "pair" not in rows.column_names:
        return list(rows["text"])
    return [f"{text} | {pair}" for text, pair in zip(rows["text"], rows["pair"], strict=True)]
