"""Every message that a user may see, out of the source, and the entries of docs/errors/*.md that explain them.

What varies in a message is `...`, there as here. `python -m tests.docs.messages` lists the messages without an entry by
page and file; `python -m tests.docs.messages docs/errors/tools.md` those of one page.
"""

import ast
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ERRORS = ROOT / "docs/errors"
HOLE = "..."
TOOLS = ("analysis", "cli", "evaluation", "export", "vision")
PAGES = {"preparing.md", "scripts.md", "tools.md", "training.md"}
# not for users: a caller's or a program's mistake
INTERNAL = {"AssertionError", "AttributeError", "IndexError", "KeyError", "NotImplementedError", "StopIteration"}
FEWEST_WORDS = 3
MOST_VARIANTS = 64
SHELL_MESSAGE = re.compile(
    r"^[^#\n]*?\b(?:die|complain|fail)((?:[ \t]+|\\\n|\$\{?\w+\}?|\"(?:[^\"\\]|\\.)*\"|'[^']*')+)", re.MULTILINE
)
SHELL_HOLE = re.compile(r"\$\(\((?:[^()]|\([^()]*\))*\)\)|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|\$[\w*@#?]+")


@dataclass(frozen=True)
class Message:
    """A message: its text with holes, and where it is raised or logged."""

    text: str
    path: str
    line: int

    @property
    def page(self) -> str:
        """The page of docs/errors that has to explain it."""
        folder, _, rest = self.path.partition("/")
        if folder == "scripts":
            return "scripts.md"
        if folder == "data_prep":
            return "preparing.md"
        return "tools.md" if rest.split("/")[0] in TOOLS else "training.md"


def words(text: str) -> list[str]:
    """The words of a message or entry that do not vary."""
    return re.findall(r"[A-Za-z][\w'-]*", text.replace(HOLE, " "))


def matches(entry: str, text: str) -> bool:
    """Whether the pieces of an entry occur in a message, in order."""
    position = 0
    for piece in entry.split(HOLE):
        found = text.find(piece.strip(), position)
        if found < 0:
            return False
        position = found + len(piece.strip())
    return True


class Reader(ast.NodeVisitor):
    """Collects the messages of one Python file."""

    def __init__(self, tree: ast.Module, path: str, own_errors: set[str]):
        self.path, self.own_errors = path, own_errors
        self.found: set[Message] = set()
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.scopes: list[ast.AST] = [tree]
        self.resolving: set[str] = set()
        self.classes: list[str] = []
        self.visit(tree)

    def visit_FunctionDef(self, node):
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node):
        self.classes.append(node.name)
        self.generic_visit(node)
        self.classes.pop()

    def visit_Raise(self, node):
        if isinstance(node.exc, ast.Call) and self._is_helper(node.exc.func):
            self._add(node.exc, node.exc.args)
        self.generic_visit(node)

    def visit_Call(self, node):
        name, owner = _name(node.func), _name(getattr(node.func, "value", None))
        if name in self.own_errors or (name.endswith(("Error", "SystemExit")) and name not in INTERNAL):
            self._add(node, node.args)
        elif (name, owner) == ("exit", "sys") or name == "error" and owner == "parser" or owner == "warnings":
            self._add(node, node.args[:1])
        elif name in ("warning", "error") and owner.lower().endswith("logger"):
            self._add(node, node.args[:1])
        elif name == "__init__" and self.classes and self.classes[-1] in self.own_errors:
            self._add(node, node.args)
        self.generic_visit(node)

    def _is_helper(self, function) -> bool:
        return isinstance(function, ast.Name) and function.id in self.functions

    def _add(self, node, arguments):
        for texts in itertools.islice(itertools.product(*map(self._texts, arguments)), MOST_VARIANTS):
            text = " ".join(" ".join(texts).split())
            if len(words(text)) >= FEWEST_WORDS:
                self.found.add(Message(text, self.path, node.lineno))

    def _texts(self, node) -> list[str]:
        """What a text can be: literal parts, holes for the rest; variables and functions of this file are followed."""
        if isinstance(node, ast.Constant):
            return [re.sub(r"%(\(\w+\))?[-\d.,]*[sdrfg]", HOLE, node.value)] if isinstance(node.value, str) else [HOLE]
        if isinstance(node, ast.JoinedStr):
            parts = [[HOLE] if isinstance(part, ast.FormattedValue) else self._texts(part) for part in node.values]
            return _joined(parts)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return _joined([self._texts(node.left), self._texts(node.right)])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return self._texts(node.left)
        if isinstance(node, ast.IfExp):
            return self._texts(node.body) + self._texts(node.orelse)
        if isinstance(node, ast.Name):
            return self._followed(node.id, lambda: self._assigned(node.id))
        if isinstance(node, ast.Call) and _name(node.func) == "format":
            return [re.sub(r"\{[^}]*\}", HOLE, text) for text in self._texts(node.func.value)]
        if isinstance(node, ast.Call) and self._is_helper(node.func):
            return self._followed(node.func.id, lambda: self._returned(node.func.id))
        return [HOLE]

    def _followed(self, name, values) -> list[str]:
        if name in self.resolving:
            return [HOLE]
        self.resolving.add(name)
        texts = [text for value in values() for text in self._texts(value)]
        self.resolving.discard(name)
        return texts or [HOLE]

    def _assigned(self, name):
        for scope in reversed(self.scopes):
            values = [
                node.value
                for node in ast.walk(scope)
                if isinstance(node, ast.Assign) and any(_name(target) == name for target in node.targets)
            ]
            if values:
                return values
        return []

    def _returned(self, name):
        nodes = [node.value for node in ast.walk(self.functions[name]) if isinstance(node, ast.Return) and node.value]
        return [node for node in nodes if not isinstance(node, ast.Call)]


def _joined(parts) -> list[str]:
    return ["".join(each) for each in itertools.islice(itertools.product(*parts), MOST_VARIANTS)]


def _name(node) -> str:
    return getattr(node, "id", None) or getattr(node, "attr", None) or ""


def _own_errors(trees) -> set[str]:
    """Names of our exception classes, and of those made of them."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names: set[str] = set()
    for _ in range(2):
        names |= {
            node.name
            for node in classes
            if any(_name(base).endswith(("Error", "Exception")) or _name(base) in names for base in node.bases)
        }
    return names


def python_messages(sources: dict[str, str]) -> set[Message]:
    """The messages of Python files, given as {path: text}."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    own_errors = _own_errors(trees.values())
    return {message for path, tree in trees.items() for message in Reader(tree, path, own_errors).found}


def shell_messages(path: str, text: str) -> set[Message]:
    """The messages of one shell script: what die, complain and fail are called with."""
    found = set()
    for match in SHELL_MESSAGE.finditer(text):
        quoted = re.findall(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'", SHELL_HOLE.sub(HOLE, match[1]))
        said = " ".join(" ".join(map("".join, quoted)).split())
        if len(words(said)) >= FEWEST_WORDS:
            found.add(Message(said, path, text[: match.start()].count("\n") + 1))
    return found


def all_messages() -> list[Message]:
    """Every message of the packages and the scripts, in the order of the files."""
    paths = [path for folder in ("data_prep", "fairseq_mhmoe") for path in (ROOT / folder).rglob("*.py")]
    messages = python_messages({str(path.relative_to(ROOT)): path.read_text() for path in paths})
    for path in (ROOT / "scripts").rglob("*.sh"):
        messages |= shell_messages(str(path.relative_to(ROOT)), path.read_text())
    return sorted(messages, key=lambda message: (message.path, message.line, message.text))


def entries(page: Path) -> list[list[str]]:
    """The rows of a page's tables: message, why, what to do."""
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in page.read_text().splitlines() if line[:3] == "| `"]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]


def without_entry(messages: list[Message], page: Path) -> list[Message]:
    """The messages of this page that no entry of it explains."""
    known = [row[0].strip("`") for row in entries(page)] if page.exists() else []
    return [m for m in messages if m.page == page.name and not any(matches(entry, m.text) for entry in known)]


def main(pages: list[str]):
    """Lists the messages without an entry, of these pages or of all."""
    messages = all_messages()
    for name in pages or sorted(PAGES):
        page = ERRORS / Path(name).name
        missing = without_entry(messages, page)
        print(f"{page.name}: {len(missing)} of {sum(m.page == page.name for m in messages)} messages have no entry")
        for path, group in itertools.groupby(missing, key=lambda message: message.path):
            print(f"\n{path}")
            for message in group:
                print(f"  {message.line}: {message.text}")


if __name__ == "__main__":
    main(sys.argv[1:])
