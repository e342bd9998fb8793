r"""How a response says which letter it chooses; searched in the text of `choice_text.readable`.

Each kind is explained by an example. `CHOICE` is a letter that can't be part of a word, a formula or a name; a small
letter only in brackets or where a sentence or clause ends after it.
"""

import re

from evaluation.graders.choice_text import BOX_CLOSE, BOX_OPEN

# No formula ("C = Q/V", "A^2"), no word ("B-field", "D's") follows a capital; from E on it is no option.
_END = r"(?=\s*(?:[.,;:!)?\u3002]|\n|$))"
_LETTER = (
    r"(?:(?<![A-Za-z0-9])[(\[]\s*[A-Za-z]\s*[)\]]"
    r"|(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9_'\u2019-]|\s*(?:[=>\u2264\u2265+\u00d7\u00b7^\u2248]|<(?!/))|/\w{2})"
    rf"|(?<![A-Za-z0-9])[a-d]{_END})"
)
_PREFIX = r"(?:(?i:the\s+)?(?i:option|choice|letter|answer|statement|number|\u9009\u9879|\u9009)\s*:?\s*)?"
CHOICE = rf"{_PREFIX}(?P<choice>{_LETTER})"
_FIRST = rf"(?:{_PREFIX}(?P<first>{_LETTER})\s*(?:,|/|&|\band\b|\bor\b|\bnor\b|\u548c|\u6216)\s*)?"

_GOOD = (
    r"(?:correct|right|best|true|proper|accurate|valid|appropriate|final|only"
    r"|suitable|most\s+\w+|chosen|\w+est)"
)
_NOUN = r"(?:answer|option|choice|selection|statement|letter|one|alternative|response|pick)"
_ADVERB = (
    r"(?:\s*,?\s*\b(?:therefore|thus|hence|then|so|indeed|clearly|definitely|most\s+likely|probably|likely|actually|simply"
    r"|obviously|certainly|now|in\s+fact|again|just|likewise|surely|in\s+the\s+end|ultimately|evidently|of\s+course"
    r"|still|really|instead|plainly|\w+ly)\b,?)*"
)
_IS = (
    r"(?:\b(?:is|was|must\s+be|should\s+be|has\s+to\s+be|will\s+be|would\s+be|can\s+only\s+be|ought\s+to\s+be|=)"
    r"|\bbe\b|[:=\u2192>\u2014\u2013]|->|\s-\s)"
)
_CLOSED = (
    r"(?=\s*(?:[.,;:!)\u3002]|\n|$)"
    r"|\s+(?:because|since|as|and|given|due|for|by|while|whereas|here|from|with|based|\(|-|\u2014))"
)
_IT = r"(?:it|this|that|which|i|we|the\s+(?:result|conclusion|solution))"

# Where a letter is the subject: not in "the matrix A is right".
_BEGIN = (
    r"(?:^|[.,;:!(\u2014]\s*|\b(?i:so|thus|hence|therefore|that|only|and|both|either|then|means|shows|see|find|conclude|because|since|clearly"
    r"|again|but|or|which|while|whereas|though|although|say|think|believe|as)\s+|\A)[^\S\n]*+"
)

STATEMENTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # "The correct answer to this is therefore: (C)", "Answer: B", "**Final answer**\n\nC", "it is not A but C"
        rf"(?i:\banswer(?:\s+(?:choice|option|letter))?\b(?!\s+(?:choices|options)\b)(?P<gap>[^\n.:=?!]{{0,60}}?)(?:{_IS}|\s*\n))"
        rf"{_ADVERB}[\s:=>\u2014-]*(?P<contrast>(?i:not\s+[^\n.]{{1,20}}?\bbut\s+(?:rather\s+)?))?{CHOICE}",
        # "<answer>C</answer>"
        rf"(?i:<(?:\w+_)?answer>)\s*{CHOICE}",
        # "Ans: C", "{"answer": "C"}"
        rf"(?i:\bans\s*[.:=]\s*){CHOICE}",
        # "Final answer (C)", "Answer C."
        rf"(?i:\banswer)\s+(?P<choice>\([A-Za-z]\)|[A-D]){_END}",
        # "the correct option is D", "The best choice here is C", "Correct option: C", "My choice: C"
        rf"(?i:\b(?:{_GOOD}|my|final)\s+(?:{_NOUN}s?)\b(?P<gap>[^\n.:=?!]{{0,60}}?)(?:{_IS})){_ADVERB}[\s:]*{CHOICE}",
        # "The option is C", "Choice: C"
        rf"(?i:\b(?:option|choice|selection)(?:\s*:|\s+(?:is|must\s+be|should\s+be)\b)){_ADVERB}[\s:]*{CHOICE}",
        # "The correct one among the options is C", "What fits best is C", "Correct: C"
        rf"(?i:\b(?:correct|chosen)(?:\s+(?:is|letter|:)|:)){_ADVERB}[\s:]*{CHOICE}{_CLOSED}",
        # "Therefore, D is correct", "C is the correct answer", "(B) must be the right choice", "Option C is best."
        rf"{_BEGIN}{_FIRST}{CHOICE}\s+(?i:is|are|must\s+be|should\s+be|has\s+to\s+be|seems|appears\s+to\s+be)"
        rf"(?i:{_ADVERB}\s+(?:the\s+)?(?:only\s+|single\s+|one\s+)?(?:\w+ly\s+)?"
        rf"(?:(?:{_GOOD}\s+)*(?:answer|option|choice|statement|one|selection|response)\b(?!\s+(?:that|to\s+rule))"
        rf"|(?:correct|right|best|my\s+(?:answer|choice)){_CLOSED}))",
        # "I choose C.", "I'd go with choice (B)", "we select option D", "we pick C, because"
        rf"(?i:\b(?:choose|chose|select|selected|pick|picked|choosing|picking|go(?:ing)?\s+with|opt(?:ing)?\s+for|settl(?:e|ing)\s+on|went\s+with"
        rf"|conclude\s+(?:that\s+it\s+is|with))){_ADVERB}\s+{CHOICE}{_CLOSED}",
        # "Only C works.", "only option D fits", "This leaves C.", "leaving only (B)"
        rf"(?i:\bonly)\s+{CHOICE}\s+(?i:works|fits|remains|matches|is\s+left|satisfies|survives|agrees|holds|can\s+be"
        r"|is\s+(?:true|valid|possible|consistent|acceptable|allowed))\b",
        # "C it is.", "It's C."
        rf"{CHOICE}\s+(?i:it\s+is)(?=\s*(?:[.!]|\n|$))",
        rf"(?:^|[.!:,]\s+)(?i:it|that)(?i:\s+is|'s|\u2019s)\s+{CHOICE}(?=\s*(?:[.!]|\n|$))",
        # "The solution is C."
        rf"(?i:\bsolution\s+is)\s+{CHOICE}(?=\s*(?:[.!]|\n|$))",
        rf"(?i:\b(?:leaves|leaving)(?:\s+(?:us|only|just|with))*)\s+{CHOICE}{_CLOSED}",
        # "So it must be C", "Hence it's (C).", "So C."
        rf"(?i:\b(?:{_IT})\s+(?:(?:must|has\s+to|should|can\s+only)\s+(?:\w+ly\s+)?be)){_ADVERB}\s+{CHOICE}{_CLOSED}",
        rf"(?i:\b(?:so|hence|thus|therefore),?\s+(?:(?:{_IT})\s*(?:is|'s|\u2019s)){_ADVERB})\s+{CHOICE}{_CLOSED}",
        rf"(?i:(?:^|[.!:]\s+)(?:so|hence|thus|therefore)\s*[,:]?)\s+{CHOICE}(?=\s*(?:[.!]|\n|$))",
        # "corresponds to option C", "which matches (C)", "This is option D"
        r"(?i:\b(?:corresponds?\s+to|matche?s|matching|agrees\s+with|is|given\s+(?:by|in)|points?\s+to|leads?\s+to|namely|i\.e\.,?))\s+"
        rf"(?:(?i:the\s+)?(?i:option|choice|answer)\s+(?P<choice>{_LETTER})|(?P<bracketed>\([A-Da-d]\))){_CLOSED}",
        # "24, no wait, C."
        rf"(?i:\b(?:no\s+wait|wait\s+no|wait|sorry|i\s+mean|make\s+that|correction|no|actually|rather)(?:\s*[,:\u2014-])?\s*(?:it(?:'s|\s+is)\s+)?){CHOICE}(?=\s*(?:[.!]|\n|$))",
        # "答案:C", "答案应该是 C", "正确选项为 (C)", "故选C", "应选择 C", "选 C。", "C 是正确的", "C项正确"
        rf"(?:\u7b54\u6848|(?:\u6b63\u786e|\u6700\u4f73)(?:\u7684)?(?:\u9009\u9879|\u9009\u62e9|\u9879|\u7684)?|\u9009\u9879)(?P<gap>[^\n\u3002\uff0c,:]{{0,12}}?)[:\u3011\u662f\u4e3a\u9009\u5e94\u8be5\u5c31\s]+{CHOICE}",
        rf"(?:\u6545|\u5e94|\u56e0\u6b64|\u6240\u4ee5|\u6700\u7ec8|\u6211|\u5c31|\u5219|\u4e8e\u662f|\u53ea\u80fd|\u5e94\u5f53|\u5e94\u8be5|\u672c\u9898|^|[\u3002,\s])(?:\u9009\u62e9|\u9009)\s*:?\s*{CHOICE}",
        # "只有C符合条件"
        rf"\u53ea\u6709\s*{CHOICE}\s*(?:\u9009\u9879|\u9879)?\s*(?:\u7b26\u5408|\u6b63\u786e|\u6ee1\u8db3|\u6210\u7acb|\u53ef\u80fd)",
        rf"{CHOICE}\s*(?:\u9009\u9879|\u9879)?\s*(?:\u624d)?(?:\u662f)?(?:\u552f\u4e00)?(?:\u6b63\u786e|\u6700\u4f73)(?:\u7684)?(?:\u7b54\u6848|\u9009\u9879)?(?=\s*(?:[.,;!\u3002]|\n|$))",
    )
)
BOXED = re.compile(rf"{BOX_OPEN}(?P<letters>[A-D]+){BOX_CLOSE}")
# "A is too small.\n\nC", "**(C)**", "Option C."
ALONE = re.compile(rf"^[^\S\n]*(?:[-#>\u2022]+[^\S\n]*)?{CHOICE}[^\w\n]*$", re.MULTILINE)
# "C because option A fails", "(C) since energy is conserved": a line that begins with the choice.
LEADING = re.compile(
    rf"^[^\S\n]*{CHOICE}(?:(?:,|\s*[-\u2014])?\s+(?:because|since|as)\b"
    r"|[.:,]\s+(?i:options?|choices?|(?:all\s+)?(?:the\s+)?others?)\b)",
    re.MULTILINE,
)
# "Hence option D fits all of the data", "choice (B)"
MENTION = re.compile(
    r"(?i:\b(?:options?|choice|\u9009\u9879))\s*(?P<choice>[(\[]?\s*[A-Da-d]\s*[)\]]?)(?![\w'\u2019])(?=(?P<rest>[^\n.]{0,60}))"
)

# "A or B", "(A) and (C)" after a choice.
SECOND = re.compile(
    rf"\s*(?:,\s*(?:and|or)\b|,|/|&|and\b|or\b|\u548c|\u6216|\u4e0e|\u3001)\s*{_PREFIX}(?P<choice>{_LETTER})"
    r"(?=\s*(?:[.,;:!)?/&\u3002]|\n|$|(?:are|both|together|work|fit|too|depending|because|since|as|and|or)\b))"
)
# "A" is also an article: "the answer is A proton".
NOUN_FOLLOWS = re.compile(
    r"[^\S\n]+(?!(?:because|since|as|and|or|due|which|given|for|with|is|not|but|by|rather|from|while|whereas|after|in|on|if"
    r"|based|according|only|here|that|where|when|so|due|again|though|although|to|at)\b)[a-z]"
)
# What turns a statement round: "the answer is not C", "neither B nor D is correct", "if C is correct".
DENIED_INSIDE = re.compile(
    r"\b(?:not|never|cannot|neither|nor|without|unless|whether|if|can't)\b|n[\u2019']t\b|不|非|错误|如果|若|是否",
    re.IGNORECASE,
)
DENIED_BEFORE = re.compile(
    r"(?:(?:\b(?:not|never|cannot)\b|n[\u2019']t\b)(?:\s+(?:think|believe|say|clear|true|that|sure|mean|be|certain|simply|just|the\s+case"
    r"|want|to))*|\b(?:neither|nor|than|unless|whether|suppos\w+|assum\w+|tempt\w+\s+to|might\s+(?:think|say))(?:\s+that)?"
    r"|\bif)(?:\s+(?!,)[\w\u2019']+){0,2}\s*$|\b(?:incorrect|wrong|worst|false|invalid|least(?:\s+\w+)?|excluded|eliminated|rejected)\s+$|(?:\u4e0d|\u5982\u679c|\u82e5|\u5047\u8bbe|\u662f\u5426|\u4e0d\u80fd|\u4e0d\u5e94)$",
    re.IGNORECASE,
)
QUESTION = re.compile(r"\s*\)?\s*\?")
DENIED_MENTION = re.compile(
    r"\s*,?\s*(?:\w+\s+)?(?:fails?|wrong|incorrect|violates?|contradicts?|false|(?:is|are|was|can|does|would|cannot|could)\s*(?:not|n't|n\u2019t|also\s+wrong|clearly\s+wrong|too)"
    r"|(?:is|are|was|can\s+be|would\s+be|must\s+be)\s+(?:\w+\s+)?(?:wrong|incorrect|false|impossible|excluded|eliminated|ruled|rejected|invalid|out|too|inconsistent|off|less|unlikely|half|twice|double)"
    r"|isn|doesn|can't|can\u2019t|cannot|ignores?|misses|forgets|overestimates|underestimates|lacks|不|错)",
    re.IGNORECASE,
)
# "this rules out option C", "unlike option B"
DENIED_MENTION_BEFORE = re.compile(
    r"(?:\b(?:rul(?:es?|ed|ing)\s+out|exclud\w+|eliminat\w+|reject\w*|discard\w*|dismiss\w*|unlike|not|than|against|contradicts?"
    r"|without|instead\s+of|nor|neither)\s+(?:the\s+)?|\u6392\u9664|\u4e0d\u9009|\u4e0d\u662f)$",
    re.IGNORECASE,
)
