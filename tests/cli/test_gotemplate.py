"""Go templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.gotemplate import NoField, Template, TemplateError

VALUE = {
    "Id": "sha256:abc",
    "N": 3,
    "F": 1.5,
    "T": True,
    "Nil": None,
    "Empty": [],
    "List": ["x", "y", "z"],
    "Map": {"b": 2, "a": {"k": "v"}},
    "Env": ["A=1", "B=2"],
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("{{.Id}} {{.N}} {{.F}} {{.T}}", "sha256:abc 3 1.5 true"),
        ("{{.ID}}", "sha256:abc"),
        ("{{.Missing}}", "<no value>"),
        ("{{.Map}} {{.List}}", "map[a:map[k:v] b:2] [x y z]"),
        ("{{.Map.a.k}}", "v"),
        ("{{json .Map}}", '{"b":2,"a":{"k":"v"}}'),
        ("{{json .Id}}{{json .Nil}}", '"sha256:abc"null'),
        ("{{range .List}}<{{.}}>{{end}}", "<x><y><z>"),
        ("{{range $i, $v := .List}}{{$i}}{{$v}} {{end}}", "0x 1y 2z "),
        ("{{range $k, $v := .Map}}{{$k}},{{end}}", "a,b,"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .List}}{{if eq . \"y\"}}{{break}}{{end}}{{.}}{{end}}", "x"),
        ("{{range .List}}{{if eq . \"y\"}}{{continue}}{{end}}{{.}}{{end}}", "xz"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{if .T}}a{{else}}b{{end}}", "a"),
        ("{{if .Nil}}a{{else if .Empty}}b{{else}}c{{end}}", "c"),
        ("{{with .Map.a}}{{.k}}{{end}}", "v"),
        ("{{with .Nil}}x{{else}}no{{end}}", "no"),
        ("{{with $x := .N}}{{$x}}{{$.Id}}{{end}}", "3sha256:abc"),
        ("{{$x := 1}}{{range .List}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("a {{- .N -}} b", "a3b"),
        ("a {{/* nothing }} */}}b", "a b"),
        ("{{- /* trimmed */ -}} b", "b"),
        ("{{upper .Id | printf \"%s!\"}}", "SHA256:ABC!"),
        ("{{join .List \", \"}}", "x, y, z"),
        ("{{split .Id \":\" | len}}", "2"),
        ("{{index .List 1}}{{index .Map \"a\" \"k\"}}", "yv"),
        ("{{(index .Env 0)}}", "A=1"),
        ("{{slice .Id 7}} {{slice .Id 0 6}}", "abc sha256"),
        ("{{truncate .Id 6}}{{pad \"x\" 1 2}}|", "sha256 x  |"),
        ("{{title \"ab cd\"}} {{lower \"AB\"}}", "Ab Cd ab"),
        ("{{println .N \"a\"}}", "3 a\n"),
        ("{{print 1 2 \"a\" \"b\" 3}}", "1 2a b3".replace("a b", "ab")),
        ("{{printf \"%d|%5d|%-5s|%05d|%q|%v|%t|%.2f|%x|%%\" 3 4 \"a\" 5 \"q\" .List .T .F 255}}",
         '3|    4|a    |00005|"q"|[x y z]|true|1.50|ff|%'),
        ("{{printf \"%d\" .Id}}", "%!d(string=sha256:abc)"),
        ("{{and .T .N}} {{or .Nil .N}} {{not .T}}", "3 3 false"),
        ("{{eq .N 1 2 3}} {{ne .N 3}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}",
         "true false true true false true"),
        ("{{len .Map}}{{len \"é\"}}", "22"),
        ("{{\"a\\tb\" }}{{`raw\\t`}}{{'x'}}", "a\tbraw\\t120"),
        ("{{define \"t\"}}[{{.}}]{{end}}{{template \"t\" .N}}", "[3]"),
        ("{{block \"t\" .N}}<{{.}}>{{end}}", "<3>"),
        ("{{html \"<a>\"}}", "&lt;a&gt;"),
        ("{{if and (eq .N 3) (not .Nil)}}ok{{end}}", "ok"),
        ("{{.Map.a | json}}", '{"k":"v"}'),
    ],
)  # fmt: skip
def test_rendering(text, shown):
    assert Template(text).render(VALUE) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{foo}}", 'template: :1: function "foo" not defined'),
        ("{{", "template: :1: unclosed action"),
        ("{{if}}", "template: :1: missing value for if"),
        ("{{if .T}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("a\n{{$x}}", 'template: :2: undefined variable "$x"'),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ('{{"a}}', "template: :1: unterminated quoted string"),
        ("{{(.N}}", "template: :1: unclosed left paren"),
        ("{{.N | 3}}", "template: :1: non executable command in pipeline stage 2"),
    ],
)
def test_what_is_no_template(text, message):
    with pytest.raises(TemplateError) as caught:
        Template(text)
    assert str(caught.value) == message


def test_a_missing_key_of_an_inspected_object():
    with pytest.raises(TemplateError) as caught:
        Template("x {{.Foo}}", strict=True).render(VALUE)
    assert (
        str(caught.value)
        == 'template: :1:4: executing "" at <.Foo>: map has no entry for key "Foo"'
    )


def test_a_record_without_the_field():
    class Record:
        def field(self, name):
            if name == "Label":
                return {"a": "b"}.get
            raise NoField("*formatter.X")

    assert Template('{{.Label "a"}}').render(Record()) == "b"
    with pytest.raises(TemplateError) as caught:
        Template("{{.Foo}}").render(Record())
    assert (
        str(caught.value)
        == 'template: :1:2: executing "" at <.Foo>: can\'t evaluate field Foo in type *formatter.X'
    )


@given(st.text(alphabet='{}. $|"`-()rangeifdx:=,\n0', max_size=40))
def test_any_text_renders_or_is_a_template_error(text):
    try:
        Template(text).render(VALUE)
    except TemplateError:
        pass


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_is_itself(text):
    assert Template(text).render({}) == text
