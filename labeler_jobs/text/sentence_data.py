"""What the sentence splitter knows of written English: abbreviations, and words that tell where a sentence begins.

Chosen for chains of thought: mathematics, code and plain prose. Entries are lower case, without the last full stop.
"""

_INNER_ABBREVIATIONS = """
    e.g i.e eg ie cf vs viz ca resp approx w.r.t wrt s.t a.k.a n.b dr mr mrs ms prof rev gen col capt lt sgt gov sen
    fig figs eq eqs eqn eqns sec secs chap thm prop lem cor def defn rem ex exs ref refs vol vols pp eds avg
    
"""
_ABBREVIATIONS = """
    etc al et.al incl excl i.i.d p.s q.e.d jr sr inc ltd co corp bros dept univ est ave blvd rd ft
    jan feb apr jun jul aug sep sept oct nov dec a.m p.m a.d b.c b.c.e c.e
    u.s u.k u.n e.u d.c u.s.a n.y ph.d m.d b.a m.a b.s m.s b.sc m.sc lhs rhs const coeff deg temp orig misc
    
"""
_NUMBERED = """
    no nos art p
"""
_COMMON_WORDS = """
    a about actually add after again all also alternatively although an and another any anyway are as assume at
    because before both but by call can check clearly combining compare compute consider continue could define did
    divide do does each either equivalently evaluate even every expand finally find first for from furthermore
    given go hence here he her hold how however if in indeed instead is it its let lets like likewise look maybe
    more moreover most multiply my next none not note notice now observe of ok okay on once one only or
    other otherwise our out over perhaps please plug proceed prove put recall recap repeat right second see set she
    show similarly simplify simply since so solve some start still substitute subtract such suppose sure take that
    the their them then there therefore these they thing this those though three thus to together total try two under
    unless until up use using verify wait was we well were what when where which while who why will with
    without would write yes yet you your
    
"""

INNER_ABBREVIATIONS = frozenset(_INNER_ABBREVIATIONS.split())
"""Words whose full stop never ends a sentence: something belonging to them follows."""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Words whose full stop ends a sentence only before a word that shows that another begins."""
NUMBERED = frozenset(_NUMBERED.split())
"""Words whose full stop ends no sentence before a number: "No. 5"."""
COMMON_WORDS = frozenset(_COMMON_WORDS.split())
"""Words that prose has in lower case, so that a capital shows that a sentence begins."""
