r"""Brings an answer in LaTeX or plain text into the form that math-verify understands: decorations and units off.

math-verify strips `\mathrm` and `\,` before it looks for units, so that "73\ \mathrm{cm}^2" becomes 73 c m^2 and
"1\,024" a product. Hence units and digit groups are settled here, in the raw text.
"""

import re

_SPACE = re.compile(
    r"\\(?:[,;:! ]|quad\b|qquad\b|thinspace\b|thickspace\b|medspace\b|enspace\b|hspace\*?\{[^{}]*\})"
    r"|\{\\[,;:! ]\}|[~\u00a0\u2009\u202f\u2002-\u200a]"
)
_NOISE = re.compile(
    r"\\(?:displaystyle|textstyle|left|right|bigl?|bigr?|Bigl?|Bigr?|large|Large|huge|bf|it|rm|bfseries)(?![A-Za-z])"
    r"|\\?\$|\\[()\[\]]|[*_`]{2,}|`"
)
# "{\\rm cm}", "\\rm{cm}"
_SWITCHED = re.compile(r"\{\s*\\rm\b\s*|\\rm\s*\{")
_TEXT = (
    r"\\(?:text(?:rm|bf|it|sf|tt|normal|up|md)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname|boldsymbol"
    r"|bm|bold|emph|underline|uline|unit)\*?"
)
_WRAPPED = re.compile(
    rf"(?:{_TEXT}|\\textcolor\s*\{{[^{{}}]*\}}|\\color\s*\{{[^{{}}]*\}}|\\(?:boxed|fbox|framebox))"
    r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
# "Answer: 25", "(C) 25", "C) 25"
_LABEL = re.compile(
    r"(?i:(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is|\s*[:=])\s*:?\s*|(?:option|choice)\s+)?"
    r"(?:\(\s*[A-J]\s*\)|[A-J]\s*(?:\)|[.:](?=\s)))?\s*(?=[-+\d\\(.])"
)
# "Area = 25": what is named is no part of the value.
_NAME = re.compile(r"[A-Za-z][A-Za-z ]{2,40}[=:]\s*")
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:[ ]\d{3})+)(?![\d ]*\d)")
_COMMAS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")
# "5 (20+5=25)", "5 (since ...)": an aside.
_ASIDE = re.compile(r"\s*\((?:[^()]*[=\u2248][^()]*|\s*(?:since|because|as|for|where)\b.*)\)\s*$", re.DOTALL)
# "1e-05": as computers write a number.
_EXPONENT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,3})")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\s*\d\s*\}|-?\d)|[\u00b2\u00b3]|-?\d(?![\d.]))?"
_KNOWN_UNITS = (
    "cm mm km dm nm pm um ft in inch yd mi kg mg lb lbs oz ml mL kL km/h kmh kph mph rpm hr hrs min mins sec secs "
    "ms ns us Hz kHz MHz GHz kJ MJ eV keV MeV GeV Pa kPa MPa atm mol cal kcal rad deg sq kW "
    "MW kN mA mV kV dB USD EUR RMB"
)
_SYMBOL = (
    r"\\(?:mu|Omega|ohm|degree|celsius|circ|euro|pounds|AA)(?![A-Za-z])"
    r"|[\u00b0\u00b5\u03bc\u03a9\u2126\u20ac\u00a3\u00a5%]|\\\$"
)
_WORD = r"[A-Za-z]{3,}(?:'s)?"
_KNOWN = "|".join(sorted(map(re.escape, _KNOWN_UNITS.split()), key=len, reverse=True))
_ONE_LETTER = r"[mgshNJWVKLCAT](?![A-Za-z(])"
_ATOM = (
    rf"(?:\(?(?:{_SYMBOL}|{_KNOWN}|{_WORD}|{_ONE_LETTER})(?![A-Za-z]){_POWER}(?:\){_POWER})?"
    rf"|\(?\\[muOega]+\s*{_ONE_LETTER}\)?)"
)
_JOIN = r"\s*(?:/|\\cdot|\\times|\\,|\u00b7|\*|-|\\per)?\s*"
_UNIT = rf"{_ATOM}(?:{_JOIN}{_ATOM})*"
_VALUE_WITH_UNIT = re.compile(
    rf"(?P<value>.*[\d}})!])(?P<gap>\s*)(?P<unit>{_UNIT}|\^\s*(?:\\circ|\{{\s*\\circ\s*\}})\s*(?:[CF]|{_UNIT})?)\s*[.]?",
    re.DOTALL,
)
_UNIT_FRACTION = re.compile(rf"\\[dt]?frac\s*\{{\s*({_UNIT}|[A-Za-z])\s*\}}\s*\{{\s*({_UNIT}|[A-Za-z])\s*\}}\s*$")
# Words after a number that make another number of it, or say that it isn't the answer.
_MEANING = """
    or and to plus minus times divided over squared cubed factorial thousand thousands million millions billion
    billions trillion hundred hundreds dozen dozens score mod modulo base if unless when where not than more
    less fewer half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths tenth tenths
    hundredths percent percentage root pi because since as power raised multiplied choose sqrt sin cos tan log
    ln exp frac factorials millionths thousandths is does but either through until least most
"""
MEANING = frozenset(_MEANING.split())
_FUNCTION_NAMES = """
    sin cos tan cot sec csc log ln exp sqrt pi mod gcd lcm min max or and inf infinity arcsin arccos arctan sinh
    cosh tanh
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
# "1 24", "25_8", "5 \\Rightarrow 25", "\\neq 25", "25:1"
_OTHER_THAN_VALUE = re.compile(
    r"\d\s+\d|\d\s*(?:_|:\s*\d)"
    r"|\\(?:neq?|implies|iff|because|to|(?:long|Long)?(?:left|right|Left|Right)+arrow)\b"
    r"|[\u2190-\u2194\u21d0-\u21d4\u2260]"
)


def normal_form(latex: str) -> str:
    r"""The value that an answer states, without what surrounds it.

    Args:
        latex: An answer, such as "73\ \mathrm{cm}^2", "1\,024" or "\textbf{(C) }25".
    """
    latex = _SWITCHED.sub(r"\\mathrm{", latex)
    text = _NOISE.sub(
        "", _SPACE.sub(" ", latex.replace("\\!", "").replace("{,}", ",").replace("\u2212", "-"))
    ).strip()
    text = _unwrapped(text.rstrip(" .;,") if not text.endswith("\\.") else text)
    text = _ASIDE.sub("", text)
    text = _NAME.sub("", text, count=1) if _NAME.match(text) else text
    text = text[match.end() :] if (match := _LABEL.match(text)) else text
    text = _grouped(text)
    while (shorter := _without_unit(text).strip()) != text:
        text = shorter
    if match := _EXPONENT.fullmatch(text):
        return rf"{match[1]} \times 10^{{{int(match[2])}}}"
    return text.replace(",", "") if _COMMAS.fullmatch(text) else text


def is_readable(text: str, gold: str) -> bool:
    """Whether math-verify would read all of a normal form: it takes the last number out of a sentence that it can't.

    Args:
        text: An answer's normal form.
        gold: The right answer's; what is in it may be in the answer.
    """
    words = _words(text) - _words(gold) - _FUNCTIONS
    return not words and (not _OTHER_THAN_VALUE.search(text) or bool(_OTHER_THAN_VALUE.search(gold)))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]{3,}|\b(?:or|is|of|to|if)\b", _COMMAND.sub(" ", text)))


def _unwrapped(text: str) -> str:
    while (shorter := _WRAPPED.sub(lambda match: f" {match[1]} " if _is_word(match) else match[1], text)) != text:
        text = shorter
    return re.sub(r"\s+", " ", text).strip()


def _is_word(match: re.Match[str]) -> bool:
    return bool(re.match(r"\s*\(?[A-Za-z]", match[1]))


def _grouped(text: str) -> str:
    return _GROUPED.sub(lambda match: match.group().replace(" ", ""), text)


def _without_unit(text: str) -> str:
    match = _VALUE_WITH_UNIT.fullmatch(_UNIT_FRACTION.sub(r"\1/\2", text) if _UNIT_FRACTION.search(text) else text)
    if match is None:
        return text
    words = re.findall(r"[A-Za-z]+", match["unit"])
    changes = words and (
        words[0].lower() in MEANING or any(word.lower() in MEANING - {"squared", "cubed"} for word in words)
    )
    attached = (
        not match["gap"]
        and re.match(rf"(?:{_WORD}|{_ONE_LETTER})(?![A-Za-z])", match["unit"])
        and not re.match(_KNOWN, match["unit"])
    )
    return text if changes or attached or "%" in match["unit"] else match["value"]
