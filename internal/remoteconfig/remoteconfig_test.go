package remoteconfig_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
)

func file(name, body string) remoteconfig.File {
	return remoteconfig.File{Name: name, Body: []byte(body)}
}

// Conformance: 71
func TestFilesMergeSortedByNameUnnamedLast(t *testing.T) {
	t.Parallel()
	files := []remoteconfig.File{
		file("", "who: unnamed\nx: {z: 3}"),
		file("b", "who: b\nx: {y: 2}\nlist: [b]"),
		file("a", "who: a\nx: {y: 1, a: 1}\nlist: [a, a]"),
	}
	want := map[string]any{"who": "unnamed", "x": map[string]any{"a": 1, "y": 2, "z": 3}, "list": []any{"b"}}
	var first remoteconfig.Ref
	for i, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {2, 0, 1}} {
		var shuffled []remoteconfig.File
		for _, j := range order {
			shuffled = append(shuffled, files[j])
		}
		o := remoteconfig.NewOffer([]byte("h"), shuffled)
		got, err := o.Parse()
		require.NoError(t, err)
		assert.Equal(t, want, got)
		if i == 0 {
			first = o.Ref()
		}
		assert.Equal(t, first, o.Ref(), "the order on the wire does not matter")
	}
}

func TestEmptyOfferMeansLocalOnly(t *testing.T) {
	t.Parallel()
	for _, files := range [][]remoteconfig.File{nil, {file("", "")}, {file("a", " \n"), file("b", "# only a comment\n")}, {file("", "null")}} {
		got, err := remoteconfig.NewOffer(nil, files).Parse()
		require.NoError(t, err)
		assert.Empty(t, got)
		assert.NotNil(t, got)
	}
}

func TestErrorsNameFileAndReason(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		files []remoteconfig.File
		want  string
	}{
		{"not YAML", []remoteconfig.File{file("main.yaml", "receivers: [")}, `remote configuration file "main.yaml": parsing YAML: yaml: line 1`},
		{"a list at the top", []remoteconfig.File{file("", "- a")}, "the top is a list"},
		{"a text at the top", []remoteconfig.File{file("", "hello")}, "the top is a text"},
		{"keys that are no text", []remoteconfig.File{file("", "1: x")}, "is not a string"},
		{"duplicate key", []remoteconfig.File{file("", "a: 1\na: 2")}, "already defined"},
		{"binary", []remoteconfig.File{file("", "\x00\x01")}, "parsing YAML"},
		{"other content type", []remoteconfig.File{{Name: "x", ContentType: "application/json5", Body: []byte("{}")}}, `content type "application/json5"`},
		{
			"two files that conflict in type",
			[]remoteconfig.File{file("a.yaml", "exporters: {debug: {verbosity: basic}}"), file("b.yaml", "exporters: {debug: [x]}")},
			`remote configuration file "b.yaml": "exporters::debug" is a list here and a map in file "a.yaml"`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := remoteconfig.NewOffer(nil, tt.files).Parse()
			require.ErrorContains(t, err, tt.want)
			var parseErr *remoteconfig.ParseError
			require.ErrorAs(t, err, &parseErr)
		})
	}
}

func TestRefSeparatesItsParts(t *testing.T) {
	t.Parallel()
	a := remoteconfig.NewOffer(nil, []remoteconfig.File{file("ab", "c")}).Ref()
	b := remoteconfig.NewOffer(nil, []remoteconfig.File{file("a", "bc")}).Ref()
	assert.NotEqual(t, a, b)
	empty := remoteconfig.NewOffer(nil, nil).Ref()
	assert.False(t, empty.IsZero(), "an empty offer is a configuration of its own")
}

func TestEncodeDecode(t *testing.T) {
	t.Parallel()
	o := remoteconfig.NewOffer([]byte{1, 2}, []remoteconfig.File{file("a", "\xff\x00"), {Name: "", ContentType: "text/yaml", Body: []byte("x: 1")}})
	data, err := o.Encode()
	require.NoError(t, err)
	got, err := remoteconfig.Decode(data, o.Ref().Digest)
	require.NoError(t, err)
	assert.Equal(t, o, got)
	_, err = remoteconfig.Decode(data, "0000")
	require.ErrorContains(t, err, "another digest")
	_, err = remoteconfig.Decode([]byte("{"), o.Ref().Digest)
	require.Error(t, err)
}

func TestParseWithin(t *testing.T) {
	t.Parallel()
	limits := remoteconfig.Limits{Bytes: 1000, Depth: 5, Nodes: 20}
	for _, tt := range []struct{ name, body, want string }{
		{"plain", "a: {b: [1, x, 2.5, ~, true, 2024-01-01]}", ""},
		{"an anchor and a merge key", "a: &a {x: 1}\nb: {<<: *a, y: 2}", ""},
		{"empty", "# nothing\n", ""},
		{"size", "a: " + strings.Repeat("x", 1000), "limits::max_bytes"},
		{"depth", "a: [[[[[1]]]]]", "limits::max_depth"},
		{"depth behind an alias", "a: &a [[1]]\nb: [[*a]]", "limits::max_depth"},
		{"nodes", "a: [" + strings.Repeat("1, ", 30) + "]", "limits::max_nodes"},
		{"nodes behind aliases", "a: &a [1, 2, 3, 4, 5, 6]\nb: [*a, *a, *a]", "limits::max_nodes"},
		{"a loop", "a: &a [*a]", "stands for something that it is in"},
		{"a duplicate", "a: 1\n\"a\": 2", "already defined at line 1"},
		{"a duplicate behind an alias", "x: &k a\n*k : 1\na: 2", "already defined"},
		{"a number as a key", "a: {1: x}", "a key is not a string"},
		{"null as a key", "a: {~: x}", "a key is not a string"},
		{"a map as a key", "a: {{b: 1}: x}", "a key is not a string"},
		{"a local tag", "a: !x y", `the tag "!x" is not allowed`},
		{"binary", "a: !!binary aGk=", `the tag "!!binary" is not allowed`},
		{"a second document", "a: 1\n---\nb: 2", "second document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := remoteconfig.NewOffer(nil, []remoteconfig.File{file("f", tt.body)})
			got, err := o.ParseWithin(limits)
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			want, err := o.Parse()
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	two := remoteconfig.NewOffer(nil, []remoteconfig.File{file("a", "a: [1, 2, 3, 4, 5, 6, 7, 8, 9]"), file("b", "b: [1, 2, 3, 4, 5, 6, 7, 8, 9]")})
	_, err := two.ParseWithin(limits)
	require.ErrorContains(t, err, "limits::max_nodes", "of all files together")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("a: 1"), []byte("a: {b: 2}"))
	f.Add([]byte("receivers:\n  otlp:\n"), []byte("<<: *x"))
	f.Add([]byte("a: &x [*x]"), []byte("? {}\n: 1"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		one := remoteconfig.NewOffer(nil, []remoteconfig.File{{Name: "a", Body: a}, {Name: "b", Body: b}})
		two := remoteconfig.NewOffer(nil, []remoteconfig.File{{Name: "b", Body: b}, {Name: "a", Body: a}})
		m1, err1 := one.Parse()
		m2, err2 := two.Parse()
		require.Equal(t, err1 == nil, err2 == nil)
		within, err := one.ParseWithin(remoteconfig.Limits{Bytes: 1 << 20, Depth: 64, Nodes: 10_000})
		if err == nil {
			// NaN is not equal to itself.
			require.NoError(t, err1)
			require.Equal(t, fmt.Sprintf("%#v", m1), fmt.Sprintf("%#v", within), "what is refused is all that differs")
		}
		if err1 == nil {
			require.Equal(t, one.Ref(), two.Ref())
			require.Len(t, m2, len(m1))
		}
	})
}

// Values make a ref another one, and are neither the server's hash nor part of what
// an offer is.
func TestRefWithValues(t *testing.T) {
	t.Parallel()
	values := remoteconfig.Ref{Values: "v"}
	assert.False(t, values.IsZero())
	assert.Equal(t, "none (local configuration and connection settings only)", values.String())
	assert.Equal(t, "none (local configuration only)", remoteconfig.Ref{}.String())
	ref := remoteconfig.NewOffer([]byte{1}, nil).Ref()
	assert.Empty(t, ref.Values)
	before := ref.String()
	ref.Values = "v"
	assert.Equal(t, before, ref.String())
}
