"""``penstock pipeline``: the pipelines that workers announced and modules define, and runs of graphs that are files."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from penstock.errors import ConfigError, StoreUnavailable, UnknownModel
from penstock_cli import graphfile, preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.inputs import read_input
from penstock_cli.jobopts import as_keywords, job_options
from penstock_cli.jobview import short
from penstock_cli.output import dumps
from penstock_cli.params import complete_pipeline
from penstock_cli.services import unbroken
from penstock_cli.serving import models_behind, warn_if_unserved

if TYPE_CHECKING:
    from penstock.pipelines.announced import Announced


#: Longest type of an input, characters.
MAX_INPUT = 120


@group()
def pipeline() -> None:
    """Pipelines: graphs of models, run as jobs.

    They are those that workers announced, now or earlier, and those of PENSTOCK_MODELS.
    `penstock run NAME '{"question": …}'` runs one, `penstock job watch ID` follows its steps.
    """


@pipeline.command("list")
@pass_app
def list_(app: App) -> None:
    """List pipelines: how many steps they have, and what they are given."""
    found = app.out.rows(
        (_row(one) for _, one in sorted(_pipelines(app).items())),
        id="name",
        header=("name", "steps", "inputs", "description"),
        cells=lambda row: (row["name"], row["steps"], ", ".join(row["inputs"]), row["description"]),
        drop=("steps", "description"),
        wide=("description", "inputs"),
    )
    if not found:
        app.out.say("no pipelines: name the module that defines one, PENSTOCK_MODELS=my_models")


@pipeline.command("show")
@click.argument("name", required=False, shell_complete=complete_pipeline)
@click.option("--mermaid", is_flag=True, help="Print it in the language of Mermaid, to be drawn.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of graph files; takes no NAME.")
@pass_app
def show(app: App, name: str | None, mermaid: bool, schema: bool) -> None:
    """Show a pipeline: what each step calls and is given.

    In order of how many steps lie before it.

    With --json the graph itself, as it is stored with a run. $x is an input, other names are the outputs of steps,
    item is what a map is at, and -> is what comes out.
    """
    if schema == (name is not None) or (schema and mermaid):
        raise click.UsageError("Name a pipeline, or say --schema alone: it is the same for all graphs.")
    if name is None:
        from penstock.pipelines.schema import schema as published

        app.out.data(published())
        return
    found = _pipelines(app)
    if name not in found:
        raise _unknown(name, list(found))
    one = found[name]
    if mermaid:
        from penstock.pipelines.show.mermaid import mermaid as drawn

        text = drawn(one.graph)
        if app.out.json:
            app.out.data({"mermaid": text})
        else:
            app.out.text(text)
    elif app.out.json:
        from msgspec.json import decode

        app.out.data(decode(one.text))
    else:
        from penstock.pipelines.show.draw import draw
        from penstock.pipelines.show.limits import of_graph

        inputs = ", ".join(_input(*each) for each in one.inputs.items())
        app.out.pairs(
            [
                ("name", name),
                ("description", one.describe()),
                ("inputs", inputs or "none"),
                ("bounds", of_graph(one.graph)),
            ]
        )
        app.out.line()
        for line in draw(one.graph, width=app.out.width):
            app.out.line(line)


@pipeline.command("submit")
@click.argument("graph")
@click.argument("inputs", default="{}")
@click.option("--comfyui", metavar="CLASSES", help="GRAPH is a ComfyUI workflow; this file has models for its classes.")
@job_options
@pass_app
def submit(app: App, graph: str, inputs: str, comfyui: str | None, **options: Any) -> None:
    """Run a graph that is JSON data, and print the run's id.

    GRAPH is a file, or - for standard input; it names models, and `penstock pipeline show --schema` prints what it
    looks like. INPUTS is an object with what the run is given by name: JSON, @FILE or - for standard input.

    \b
      penstock pipeline show answer --json > graph.json
      penstock pipeline submit graph.json '{"question": "why?"}'
      penstock pipeline submit --comfyui classes.json workflow_api.json
    """
    if (graph, inputs, comfyui).count("-") > 1:
        raise click.UsageError("Only one of GRAPH, INPUTS and CLASSES can be standard input.")
    found = graphfile.read(graph) if comfyui is None else graphfile.read_comfyui(graph, comfyui)
    given = read_input(inputs)
    preflight.check(app, broker=False)
    with preflight.told_here(), unbroken():  # else a run could be stored whose id was not printed
        job = app.client.enqueue(found, given, **as_keywords(options))
        if app.out.json:
            app.out.data({"id": job.id, "model": found.name, "status": str(job.status)})
        else:
            app.out.line(job.id)
        app.out.flush()
    if not preflight.broker_answers(app):
        app.out.warn("the broker does not answer; the run is safe in the database and goes on when it is back")
    for model in models_behind(app, job.job):
        warn_if_unserved(app, model)
    app.out.say(f"its steps: penstock job watch {job.id}")


def _pipelines(app: App) -> dict[str, Announced]:
    """What is known of each. Runs by its name begin with what was announced, so that wins."""
    from penstock.pipelines.announced import Announced

    found = _local(app)
    try:
        preflight.check(app, broker=False)
        told = app.store.pipelines()
    except StoreUnavailable as error:
        if not found:
            raise
        app.out.warn(f"{error.message}; these are the pipelines of the modules here")
        return found
    for name, info in told.items():
        one = Announced(name, info)
        if name in found and found[name].text != one.text:
            app.out.warn(
                f"pipeline {name!r} has another graph in the modules here; this is the one that workers announced,"
                " with which runs by its name begin (restart the workers to change it)"
            )
        found[name] = one
    return found


def _local(app: App) -> dict[str, Announced]:
    from penstock.pipelines.announced import Announced, announcement
    from penstock.registry import Registry

    try:
        pipelines = Registry.load(app.settings.models).pipelines
    except ConfigError as error:
        app.out.warn(error.message)
        return {}
    found = {name: Announced(name, announcement(each)) for name, each in pipelines.items()}
    for name, one in found.items():
        one.graph = pipelines[name].graph  # objects as they are written, not in the order of their text
    return found


def _input(name: str, about: Mapping[str, Any]) -> str:
    """``passages: list[str]``, ``top: int = 3``: types as a pipeline's errors call them."""
    from penstock.pipelines.shapes.shape import ANY, read

    shape = read(about.get("schema"))
    text = name if shape == ANY else short(f"{name}: {shape}", MAX_INPUT)
    return f"{text} = {dumps(about['default'])}" if "default" in about else text


def _row(one: Announced) -> dict[str, Any]:
    return {
        "name": one.name,
        "steps": len(one.graph.steps),
        "inputs": list(one.graph.inputs),
        "description": one.describe(),
    }


def _unknown(name: str, known: list[str]) -> UnknownModel:
    near = get_close_matches(name[:150], known, n=1)
    if near:
        fix = f"did you mean {near[0]!r}? `penstock pipeline list` shows all"
    elif known:
        fix = f"known: {', '.join(sorted(known)[:8])}; `penstock pipeline list` shows all"
    else:
        fix = "name the module that defines it: PENSTOCK_MODELS=my_models"
    return UnknownModel(f"no pipeline is named {name!r:.80}", fix=fix)
