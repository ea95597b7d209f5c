package main

import (
	"bytes"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	// pageTimeline is how many messages the page of an agent shows.
	pageTimeline = 30
	// maxFormBytes has room for a configuration of which every byte is escaped as
	// three, and for the field's name.
	maxFormBytes = 3*maxConfigBytes + 64
)

//go:embed page.html style.css
var assets embed.FS

// pages renders the web page. It has no script: what changes is shown by loading
// the page again.
type pages struct {
	agents    *opampserver.Server
	templates *template.Template
}

func addPages(mux *http.ServeMux, agents *opampserver.Server) {
	p := pages{agents: agents, templates: template.Must(template.New("").Funcs(template.FuncMap{
		"ago":   ago,
		"short": short,
	}).ParseFS(assets, "page.html"))}
	mux.HandleFunc("GET /{$}", p.list)
	mux.HandleFunc("GET /agents/{uid}", p.agent)
	mux.HandleFunc("GET /config", p.form)
	mux.HandleFunc("POST /config", p.push)
	mux.HandleFunc("GET /agents/{uid}/config", p.form)
	mux.HandleFunc("POST /agents/{uid}/config", p.push)
	mux.Handle("GET /style.css", http.FileServerFS(assets))
}

func (p pages) list(w http.ResponseWriter, _ *http.Request) {
	var views []agentView
	for _, a := range p.agents.Agents() {
		views = append(views, viewAgent(a, false))
	}
	p.render(w, "list", map[string]any{
		"Title": "Agents", "Refresh": true, "Agents": views,
		"WSURL": p.agents.WSURL(), "HTTPURL": p.agents.HTTPURL(),
	})
}

func (p pages) agent(w http.ResponseWriter, r *http.Request) {
	a, ok := p.agents.Agent(r.PathValue("uid"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	p.render(w, "agent", map[string]any{
		"Title": "Agent " + a.UID, "Refresh": true, "Agent": viewAgent(a, true),
		"Timeline": viewTimeline(p.agents, a.UID, pageTimeline),
	})
}

// form shows the text that is offered to the agent, or to all, for editing. It
// does not refresh itself: that would lose what is being typed.
func (p pages) form(w http.ResponseWriter, r *http.Request) {
	uid := r.PathValue("uid")
	title, back := "Configuration for every agent", "/"
	if uid != "" {
		if _, ok := p.agents.Agent(uid); !ok {
			http.NotFound(w, r)
			return
		}
		title, back = "Configuration for agent "+uid, agentPath(uid)
	}
	data := map[string]any{"Title": title, "Back": back, "Action": r.URL.Path, "Config": "", "Hash": ""}
	if o, ok := p.agents.Offered(uid); ok {
		data["Config"] = string(o.Files[""].Body)
		data["Hash"] = hex.EncodeToString(o.Hash)
	}
	p.render(w, "form", data)
}

// push takes the form in and leads to the page that shows what comes of it.
func (p pages) push(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		http.Error(w, fmt.Sprintf("reading the form: %v", err), bodyStatus(err))
		return
	}
	// Browsers send line breaks of forms as CRLF.
	text := strings.ReplaceAll(r.PostForm.Get("config"), "\r\n", "\n")
	if len(text) > maxConfigBytes {
		http.Error(w, fmt.Sprintf("a configuration has at most %d bytes", maxConfigBytes), http.StatusRequestEntityTooLarge)
		return
	}
	uid := r.PathValue("uid")
	if uid == "" {
		p.agents.OfferToAll(offerOf([]byte(text)))
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if _, ok := p.agents.Agent(uid); !ok {
		http.NotFound(w, r)
		return
	}
	p.agents.Offer(uid, offerOf([]byte(text)))
	http.Redirect(w, r, agentPath(uid), http.StatusSeeOther) //nolint:gosec // a path of this server, escaped
}

// render executes a template completely before anything is sent.
func (p pages) render(w http.ResponseWriter, name string, data map[string]any) {
	var page bytes.Buffer
	if err := p.templates.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, errors.Join(errors.New("rendering the page"), err).Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page.Bytes()) // the browser may be gone
}

// agentPath is where an agent is shown. The UID is known, but it is text that the
// agent chose.
func agentPath(uid string) string { return "/agents/" + url.PathEscape(uid) }

// ago is how long a moment lies back.
func ago(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// short is the beginning of a hash.
func short(hash string) string { return hash[:min(len(hash), 12)] }
