"""Recognition of refusals: answers in which the assistant declines to answer.

An answer counts as a refusal if it is close to a refusal that the data itself teaches, or if a linear classifier says
so of one of its sentences. The classifier is a logistic regression over words, their classes and runs of letters, for
English, German, Spanish, French and Italian; it needs no model and no library. ``python -m benchmarks.fit_refusals``
fits it to ``benchmarks/refusal_training.jsonl`` and writes ``refusal_weights.json``.

The threshold is set for few false alarms, because a refusal that is not one is held against a model: counts of
refusals are lower bounds. ``python -m benchmarks.refusal_agreement`` prints how far the rule agrees with labels given
by hand.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from array import array
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from assistant_builder.normalization import normalize_form
from evals.metrics.text import token_f1

WEIGHTS_FILE = Path(__file__).with_name("refusal_weights.json")
BUCKETS = 1 << 18  # features are counted by a hash of this many values; most have no weight
_TAUGHT_F1 = 0.75  # token F1 with a refusal of the data from which an answer counts as a refusal
_TOKEN = re.compile(r"[^\W\d_]+'?|\d+|[^\w\s]")
_CLASSES = {
    "I": r"i'? my me myself ich mir mich mein\w* yo mi mis je j' moi m' mon ma mes io mio mia miei mie tengo dispongo "
    r"conozco conosco puedo posso ho riesco so sé saprei sabría ignoro desconozco temo assistant bot chat\w* "
    r"assistent\w* asistente",
    "W": r"we our us wir uns unser\w* nos nosotros nuestr\w* nous notre noi nostr\w* podemos tenemos disponemos "
    "abbiamo possiamo disponiamo",
    "Y": r"you\w* sie ihr\w* usted su sus tu vous votre vos le lei suo sua suoi",
    "N": r"not no t nothing none never neither nor cannot cant dont without nowhere nicht\w* kein\w* nie weder ohne "
    r"nirgend\w* nada ning\w* nunca ni sin ne n' pas rien aucun\w* sans non nulla niente nessun\w* né senza "
    r"unable unclear unknown beyond outside außerhalb fuera impossi\w* imposib\w* unmöglich unklar",
    "K": r"know\w* inform\w* info answer\w* details? data daten tells? say says said mention\w* states? stated "
    r"specif\w* wiss\w* weiß weiss auskunft angab\w* angegeben antwort\w* beantwort\w* sag\w* sab\w* respuest\w* "
    r"respond\w* contest\w* dat[oi]s? decir\w* dice sais savoir renseign\w* répon\w* dire dirle dit sapere "
    r"rispost\w* rispond\w* erwähn\w* mencion\w* menzion\w* indi[cq]\w* preci[sz]\w* précis\w* especific\w* "
    r"kenntnis\w* connai\w*",
    "S": r"handbook manual\w* guid\w* document\w* dokument\w* text\w* testo context\w* passage\w* arti[ck][eu]l\w* "
    "articolo leaflet brochure notes notizen notas appunti sources? quellen fuentes fonti unterlagen anleitung "
    r"broschüre folleto opuscolo contract vertrag contrat\w* recipe rezept receta recette ricetta records? "
    r"handbuch report bericht informe rapport\w* list\w* material\w* prospect\w* prospekt notice foglietto "
    r"knowledge base files? excerpt extra\w*",
    "C": r"can could able kann können konnte\w* pued\w* pod\w* peu[xt] puis pouv\w* può allowed permitted darf dürfen "
    r"help assist helfen ayud\w* aider? aiut\w* advi[cs]e berat\w* conse[ij]\w* consulenza consigli\w*",
    "R": r"sorry unfortunately afraid regret\w* apologies sadly leider bedau\w* tut leid entschuldig\w* lo siento "
    r"lament\w* desafortunad\w* desgracia désolée? malheureusement hélas navrée? purtroppo dispiace spiacente",
    "B": "but so since because aber also daher denn doch pero así porque aunque mais donc car ma quindi perché "
    "although",
    "Q": r"wh\w+ how if wer was wann wo warum wie ob welche\w* qui[eé]n qué cuá\w+ dónde si qui quand où pourquoi "
    r"combien quel\w* chi quando dove quant\w* se come",
    "O": "only just nur solo seule? seulement que soltanto",
    "U": r"please ask contact consult call speak bitte fragen wenden rufen pregunt\w* consult\w* póngase llame "
    "demandez adressez contactez appelez chieda chiami contatti rivolga check",
    "T": "police minister witness staff members employees nobody one he she they er niemand man mitarbeiter polizei "
    "zeuge nadie empleados policía testigo ministro il elle on personne employés témoin ministre nessuno "
    "dipendenti polizia it es",
}
"""Classes of words in the five languages, so that one wording is known about many sources and subjects."""
_CLASS = {letter: re.compile("|".join(words.split())) for letter, words in _CLASSES.items()}
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


def sentences(answer: str) -> list[str]:
    """The sentences of an answer, case-folded, without what it quotes: those are not the assistant's own words."""
    folded = normalize_form("NFKC", answer).casefold()
    folded = re.sub("[‘’ʼ`´]", "'", re.sub("[“”„«»‹›]", '"', folded))
    folded = re.sub(r'"[^"]*"', ' " ', " ".join(folded.split()).strip('" '))
    return [sentence for sentence in _SENTENCE_END.split(folded) if any(map(str.isalpha, sentence))]


@lru_cache(maxsize=1 << 16)
def _class(token: str) -> str:
    other = token if token in "^$0.,:;?!" else "*"
    return next((letter for letter, words in _CLASS.items() if words.fullmatch(token)), other)


def features(sentence: str) -> list[int]:
    """The distinct hashed features of a sentence: 1 to 3 words in a row, 3 to 5 characters of a word, classes in a row.

    Every number is the same word, and the two ends of the sentence are words too. Of the classes of its words, 2 to 4
    in a row count, with and without the words between them that have none.
    """
    tokens = [
        "^",
        *("0" if token[0].isdecimal() else token for token in _TOKEN.findall(sentence)),
        "$",
    ]
    found = {" ".join(tokens[i : i + n]) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)}
    for word in set(tokens):
        padded = f" {word} "
        found.update(f"#{padded[i : i + n]}" for n in (3, 4, 5) for i in range(len(padded) - n + 1))
    classes = [_class(token) for token in tokens]
    for mark, row in (("@", classes), ("~", [each for each in classes if each != "*"])):
        found.update(
            mark + "".join(row[i : i + n]) for n in (2, 3, 4) for i in range(len(row) - n + 1)
        )
    return sorted({zlib.crc32(feature.encode()) % BUCKETS for feature in found})


@dataclass(frozen=True)
class Classifier:
    """The fitted weights: a sentence with n features has the log-odds ``intercept + (sum of weights) / n ** 0.25``.

    Attributes:
        weights: One per bucket, in units of ``unit``.
        threshold: Log-odds above which an answer counts as a refusal.
    """

    weights: array[int]
    unit: float
    intercept: float
    threshold: float

    def log_odds(self, answer: str) -> float:
        """Those of the answer's most refusing sentence, less the logarithm of the number of sentences.

        Each sentence is one more chance of a false alarm, which the logarithm makes up for.
        """
        found = [features(sentence) for sentence in sentences(answer)]
        if not found:
            return -math.inf
        best = max(sum(map(self.weights.__getitem__, each)) / len(each) ** 0.25 for each in found)
        return self.intercept + self.unit * best - math.log(len(found))

    def to_json(self) -> str:
        """The content of :data:`WEIGHTS_FILE`."""
        packed = base64.b64encode(zlib.compress(self.weights.tobytes(), 9)).decode()
        record = {
            "intercept": self.intercept,
            "threshold": self.threshold,
            "unit": self.unit,
            "weights": packed,
        }
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Classifier:
        """Read what :meth:`to_json` wrote."""
        record = json.loads(text)
        return cls(
            array("b", zlib.decompress(base64.b64decode(record["weights"]))),
            record["unit"],
            record["intercept"],
            record["threshold"],
        )


@lru_cache(maxsize=1)
def shipped_classifier() -> Classifier:
    """The classifier of this release."""
    return Classifier.from_json(WEIGHTS_FILE.read_text(encoding="utf-8"))


def is_refusal(answer: str, taught: Collection[str] = ()) -> bool:
    """Whether an answer declines to answer, or shares most of its words with a refusal that the data teaches."""
    if any(token_f1(answer, refusal) >= _TAUGHT_F1 for refusal in taught):
        return True
    classifier = shipped_classifier()
    return classifier.log_odds(answer) > classifier.threshold


_MOST_WORDS = 40
_OWN_WORDS = frozenset("IWR")  # the assistant, or the house it speaks for, or a regret
_DECLINING_WORDS = frozenset("NRU")  # a negation, a regret, or whom to ask instead


def only_declines(answer: str, *, repeated: bool = False) -> bool:
    """Whether an answer of a dataset is written for questions that the dataset does not answer.

    It is short, and its first sentence declines in the words of a speaker ("I", "we", "sorry"), so that statements such
    as "The cause is unknown" are not among them. Less is enough where it is ``repeated`` for unlike questions and has a
    negation, a regret or whom to ask: a fact whose wordings share no word is repeated, too.
    """
    if len(answer.split()) > _MOST_WORDS or not (found := sentences(answer)):
        return False
    classifier, first = shipped_classifier(), found[0]
    classes = {_class(token) for token in _TOKEN.findall(first)}
    less = repeated and classes & _DECLINING_WORDS
    likely = classifier.log_odds(first) > (0.0 if less else classifier.threshold)
    return likely and bool(classes & _OWN_WORDS)
