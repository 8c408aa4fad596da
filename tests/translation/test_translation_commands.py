from __future__ import annotations

import pytest

from nnunet_ext.cli import main


def test_fit_and_apply_from_the_command_line(hearts, capsys):
    main(["translate", "fit", "-s", "901", "-t", "902", "-m", "histogram", "--set", "roi=all", "--set", "roi_margin=5"])
    folder = capsys.readouterr().out.strip()
    assert folder.endswith("translation/Dataset901_Cine__Dataset902_LGE/histogram")
    main(["translate", "apply", "-s", "901", "-t", "902", "--views", "histogram", "-d", "903", "--keep-source"])
    assert capsys.readouterr().out.strip().endswith("Dataset903_CineTranslated")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "fit", "-s", "901", "-t", "902", "-m", "gan"], "--method gan"),
        (["translate", "fit", "-s", "901", "-t", "902", "-m", "cut", "--set", "wdith=1"], "wdith is not a setting"),
        (["translate", "apply", "-s", "901", "--views", "cut", "-d", "903"], "--target is needed"),
        (["selftrain", "-d", "901", "-t", "901", "--into", "910"], "--target 901"),
        (["selftrain", "-d", "901", "-t", "902", "--into", "910", "-p", "nnUNetResEncUNetMPlans"], "--planner"),
        (["selftrain", "-d", "901", "-t", "902", "--into", "910", "-pl", "nnUNetPlannerResEncM"], "another name"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(hearts, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
