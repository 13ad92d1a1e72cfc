"""What ansible-doc says of a module is what the module takes."""

from pathlib import Path

import pytest
from ansible.plugins.loader import fragment_loader
from ansible.utils.plugin_docs import get_docstring
from test_policies import spec_of

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(ROOT.glob("plugins/modules/*.py"))
COLLECTION = "mlflow_ansible.tracking"
# Options whose own options are described in words.
IN_WORDS = {"mlflow_users": ["users"]}


def plain(options, suboptions, in_words=()):
    """Return what decides which values options may have.

    Args:
        options: Options by name, as documented or in an argument_spec.
        suboptions: The key of an option's own options there.
        in_words: Names of options whose own options are left out.
    """
    return {
        name: {
            "type": option.get("type", "str"),
            "default": option.get("default"),
            "required": option.get("required", False),
            "choices": option.get("choices"),
            "elements": option.get("elements"),
            "options": name not in in_words and plain(option.get(suboptions, {}), suboptions),
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_options_of_a_module_are_documented_as_they_are(path):
    """Whoever reads them writes a playbook by them; what a fragment says of several counts, too."""
    documented, examples, returned, _ = get_docstring(
        str(path), fragment_loader, collection_name=COLLECTION, plugin_type="module"
    )
    words = IN_WORDS.get(path.stem, [])
    spec = plain(spec_of(path.stem), "options", words)
    assert plain(documented["options"], "suboptions", words) == spec
    assert examples and all(value["description"] for value in (returned or {}).values())
