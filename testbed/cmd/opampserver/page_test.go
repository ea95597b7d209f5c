package main

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const payload = `"><script>alert('x')</script><img src=x onerror=alert(1)>`

func TestPagesEscapeWhatAgentsSay(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := connect(t, p.agents, map[string]string{"service.name": payload, payload: "javascript:alert(1)"})
	waitListed(t, p, a.uid)
	request(t, http.MethodPut, p.page+"/api/agents/"+a.uid+"/config?wait=20s", "</textarea>"+payload, nil)
	for _, path := range []string{"/", "/agents/" + a.uid, "/agents/" + a.uid + "/config", "/config"} {
		status, page, received := request(t, http.MethodGet, p.page+path, "", nil)
		assert.Equal(t, http.StatusOK, status, path)
		assert.NotContains(t, page, "<script", path)
		assert.NotContains(t, page, "<img", path)
		assert.NotContains(t, page, "<b>", path)
		assert.NotContains(t, page, "ZgotmplZ", path)
		assert.Equal(t, contentSecurityPolicy, received.Get("Content-Security-Policy"), path)
		assert.Equal(t, "text/html; charset=utf-8", received.Get("Content-Type"), path)
		assert.Equal(t, "nosniff", received.Get("X-Content-Type-Options"), path)
		assert.Equal(t, strings.Contains(page, `http-equiv="refresh"`), !strings.HasSuffix(path, "/config"), path)
	}
	_, page, _ := request(t, http.MethodGet, p.page+"/agents/"+a.uid, "", nil)
	for _, want := range []string{
		a.uid, "&lt;script&gt;", "pipeline:traces", "receiver:otlp", "AcceptsRemoteConfig", "unhealthy", "APPLIED", "&lt;/pre&gt;", "seq=0",
	} {
		assert.Contains(t, page, want)
	}
	_, page, _ = request(t, http.MethodGet, p.page+"/agents/"+a.uid+"/config", "", nil)
	assert.Contains(t, page, "&lt;/textarea&gt;", "the form shows what is offered")
	status, style, received := request(t, http.MethodGet, p.page+"/style.css", "", nil)
	assert.Equal(t, http.StatusOK, status)
	assert.NotEmpty(t, style)
	assert.Contains(t, received.Get("Content-Type"), "text/css")
}

func TestForms(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	a := connect(t, p.agents, nil)
	waitListed(t, p, a.uid)
	post := func(path, config string) (int, http.Header) {
		status, _, received := request(t, http.MethodPost, p.page+path, url.Values{"config": {config}}.Encode(), map[string]string{
			"Content-Type": "application/x-www-form-urlencoded", "Origin": p.page, "Sec-Fetch-Site": "same-origin",
		})
		return status, received
	}
	status, received := post("/agents/"+a.uid+"/config", "a: 1\r\nb: bad\r\n")
	assert.Equal(t, http.StatusSeeOther, status)
	assert.Equal(t, "/agents/"+a.uid, received.Get("Location"))
	require.Eventually(t, func() bool {
		_, page, _ := request(t, http.MethodGet, p.page+"/agents/"+a.uid, "", nil)
		return strings.Contains(page, "FAILED") && strings.Contains(page, "no such receiver")
	}, patience, 5*time.Millisecond, "the page shows the failure")
	_, page, _ := request(t, http.MethodGet, p.page+"/agents/"+a.uid+"/config", "", nil)
	assert.Contains(t, page, "a: 1\nb: bad\n", "line breaks are those of the file")

	status, received = post("/config", "a: 2")
	assert.Equal(t, http.StatusSeeOther, status)
	assert.Equal(t, "/", received.Get("Location"))
	require.Eventually(t, func() bool {
		_, page, _ := request(t, http.MethodGet, p.page+"/", "", nil)
		return strings.Contains(page, "APPLIED")
	}, patience, 5*time.Millisecond, "the list shows the success")

	status, _ = post("/config", strings.Repeat("%", maxConfigBytes))
	assert.Equal(t, http.StatusSeeOther, status, "the limit is for the text, not for its escaped form")
	status, _ = post("/config", strings.Repeat("x", maxConfigBytes+1))
	assert.Equal(t, http.StatusRequestEntityTooLarge, status)
	status, _ = post("/config", strings.Repeat("x", maxFormBytes))
	assert.Equal(t, http.StatusRequestEntityTooLarge, status)
	status, _ = post("/agents/nobody/config", "a: 1")
	assert.Equal(t, http.StatusNotFound, status)
	for _, path := range []string{"/agents/nobody", "/agents/nobody/config", "/nonsense"} {
		status, _, _ = request(t, http.MethodGet, p.page+path, "", nil)
		assert.Equal(t, http.StatusNotFound, status, path)
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	p := runProgram(t)
	port := p.page[strings.LastIndex(p.page, ":"):]
	form := "application/x-www-form-urlencoded"
	tests := []struct {
		name   string
		method string
		path   string
		header map[string]string
		want   int
	}{
		{"form of another site", http.MethodPost, "/config", map[string]string{"Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		{"another port of this machine", http.MethodPost, "/config", map[string]string{"Sec-Fetch-Site": "same-site"}, http.StatusForbidden},
		{"older browser", http.MethodPost, "/config", map[string]string{"Origin": "http://evil.example"}, http.StatusForbidden},
		{"sandboxed frame", http.MethodPost, "/config", map[string]string{"Origin": "null"}, http.StatusForbidden},
		{"PUT of another site", http.MethodPut, "/api/config", map[string]string{"Origin": "http://evil.example"}, http.StatusForbidden},
		{"DNS rebinding, reading", http.MethodGet, "/api/agents", map[string]string{"Host": "evil.example" + port}, http.StatusMisdirectedRequest},
		{
			"DNS rebinding, writing", http.MethodPost, "/config",
			map[string]string{"Host": "evil.example" + port, "Origin": "http://evil.example" + port, "Sec-Fetch-Site": "same-origin"},
			http.StatusMisdirectedRequest,
		},
		{"no host", http.MethodGet, "/", map[string]string{"Host": "0.0.0.0"}, http.StatusMisdirectedRequest},
		{"own form", http.MethodPost, "/config", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": p.page}, http.StatusSeeOther},
		{"curl", http.MethodPut, "/api/config", nil, http.StatusOK},
		{"by name", http.MethodGet, "/", map[string]string{"Host": "localhost" + port}, http.StatusOK},
		{"IPv6 without port", http.MethodGet, "/", map[string]string{"Host": "[::1]"}, http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			header := map[string]string{"Content-Type": form}
			maps.Copy(header, tt.header)
			status, _, received := request(t, tt.method, p.page+tt.path, "config=a", header)
			assert.Equal(t, tt.want, status)
			assert.NotEmpty(t, received.Get("Content-Security-Policy"))
			assert.Empty(t, received.Get("Access-Control-Allow-Origin"))
		})
	}
}
