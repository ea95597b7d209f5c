package scrub_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-opamp/otelcol-opamp/internal/scrub"
)

func TestText(t *testing.T) {
	t.Parallel()
	s := scrub.New([]string{"API_KEY=hunter2hunter2", "SHORT_TOKEN=abc", "HOME=/root", "REGION=europe", "DB_PASSWORD=hunter2", "EMPTY_SECRET="},
		[]byte("x: ${env:REGION}\ny: ${UNSET:-d}"))
	assert.Equal(t, "key ${env:API_KEY}, password ${env:DB_PASSWORD}, abc, /root, ${env:REGION}",
		s.Text("key hunter2hunter2, password hunter2, abc, /root, europe"))
	assert.Equal(t, `dial "https://[REDACTED]@host/x": no`, s.Text(`dial "https://user:pw@host/x": no`))
	odd := scrub.New([]string{"API_KEY=canary-\"47\\do\nsecond line"})
	for _, text := range []string{"x canary-\"47\\do\nsecond line x", fmt.Sprintf("%q", "canary-\"47\\do\nsecond line"), fmt.Sprintf("%q", fmt.Sprintf("%q", "canary-\"47\\do")), "only the second line"} {
		assert.NotContains(t, odd.Text(text), "canary")
		assert.NotContains(t, odd.Text(text), "second")
	}
	assert.Equal(t, "a�b", s.Text("a\xffb"))
	long := s.Text(strings.Repeat("é", 5000))
	assert.LessOrEqual(t, len(long), scrub.MaxText)
	assert.True(t, utf8.ValidString(long))
	assert.True(t, strings.HasSuffix(long, "[…]"))
}

func TestHiding(t *testing.T) {
	t.Parallel()
	s := scrub.New([]string{"API_TOKEN=from the environment"}).Hiding(map[string]string{
		"${opamp:#own_logs/headers/X-Key}": "Bearer blue-4711",
		"${opamp:#own_logs/headers/X-No":   "abc", // too short to be a secret
	})
	assert.Equal(t, "${env:API_TOKEN}, ${opamp:#own_logs/headers/X-Key}, abc", s.Text("from the environment, Bearer blue-4711, abc"))
}
