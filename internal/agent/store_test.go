package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/preflight"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// folder is the content of a state folder, by path below it.
type folder map[string][]byte

func readFolder(t *testing.T, path string) folder {
	t.Helper()
	f := folder{}
	require.NoError(t, fs.WalkDir(os.DirFS(path), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f[name], err = os.ReadFile(filepath.Join(path, name))
		return err
	}))
	return f
}

// write makes path a folder with this content and no other.
func (f folder) write(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(path))
	require.NoError(t, os.MkdirAll(filepath.Join(path, "bodies"), 0o700))
	for name, data := range f {
		require.NoError(t, os.WriteFile(filepath.Join(path, name), data, 0o600))
	}
}

// realRun returns what a process leaves that applied "h1" and "h2" and rejected
// "h3". Nothing is in trial.
func realRun(t *testing.T) folder {
	t.Helper()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.dryRun = func(_ context.Context, set preflight.Settings) preflight.Outcome {
		conf, err := agent.Peek(h.name, h.dir, process.PurposeOther)
		if err == nil && fmt.Sprint(conf.Conf) == "map[receivers:map[b:map[]]]" {
			return preflight.Outcome{Reason: "this is the third: " + set.Candidate[:4]}
		}
		return preflight.Outcome{}
	}
	h.start()
	s.wait(t, "health", func() bool { return s.health.GetStatus() != "" })
	s.push(t, "h1", "receivers: {a: {}}")
	s.waitStatus(t, "h1", applied)
	s.push(t, "h2", "receivers: {b: {}}")
	s.waitStatus(t, "h2", applied)
	s.push(t, "h3", "receivers: {c: {}}")
	s.waitStatus(t, "h3", failed)
	h.end()
	path, err := statedir.Locate(h.dir, h.name)
	require.NoError(t, err)
	require.NoError(t, agent.SaveBlocks(path, map[string]any{"opamp": map[string]any{"server": "${env:SERVER}"}}))
	require.NoError(t, os.WriteFile(filepath.Join(path, "crash"), []byte("panic: boom\n\ngoroutine 7 [running]:\nexample.com/x.f()\n\t/x.go:3\n"), 0o600))
	f := readFolder(t, path)
	r := f.record(t)
	assert.Equal(t, []string{
		"bodies/" + r.Earlier[0].Digest, "bodies/" + r.LastKnownGood.Digest,
		"crash", "instance_uid", "lock", "required_extensions", "rollout", "rollout.previous", "rollout_times", "safe_mode", "state.json",
	}, f.names(r), "what a run leaves is what the tests damage")
	assert.Equal(t, "6832", r.LastKnownGood.Hash)
	require.Len(t, r.Rejected, 1)
	require.Equal(t, rollout.StatusFailed, r.Status.State)
	return f
}

// names returns the names, the bodies of r in a known order.
func (f folder) names(r rollout.Record) []string {
	first := "bodies/" + r.Earlier[0].Digest
	var names []string
	for name := range f {
		if name != first {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return append([]string{first}, names...)
}

// record decodes the rollout's record without looking at its checksum.
func (f folder) record(t *testing.T) rollout.Record {
	t.Helper()
	_, data, ok := strings.Cut(string(f["rollout"]), "\n")
	require.True(t, ok)
	var r rollout.Record
	require.NoError(t, json.Unmarshal([]byte(data), &r))
	return r
}

// fastFolder returns a path in memory, if there is such a thing: some tests write
// tens of thousands of files.
func fastFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store-test-*") //nolint:usetesting // T.TempDir is on a disk
	if err != nil {
		return filepath.Join(t.TempDir(), "folder")
	}
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "folder")
}

// requireUsable: what is to run has a body, and it is the right one. Values alone need
// none.
func requireUsable(t *testing.T, path string, r rollout.Record, about string) {
	t.Helper()
	refs := slices.Clone(r.Earlier)
	if c := r.Candidate; c != nil && (c.Settings == "" || !c.Ref.IsZero()) {
		refs = append(refs, c.Ref)
	}
	if !r.LastKnownGood.IsZero() {
		refs = append(refs, r.LastKnownGood)
	}
	for _, ref := range refs {
		if ref.Hash != "" || ref.Digest != "" || ref.Values == "" {
			require.NoError(t, agent.Body(path, ref.Digest), about)
		}
	}
}

// triggered returns the folder as it is when "h2" has been triggered again while
// "h1" is the last known good.
func triggered(t *testing.T, f folder) folder {
	t.Helper()
	path := fastFolder(t)
	f.write(t, path)
	r := f.record(t)
	trial := rollout.Record{
		LastKnownGood: r.Earlier[0],
		Candidate:     &rollout.Candidate{Ref: r.LastKnownGood, Phase: rollout.PhaseTriggered, BootID: "boot"},
		Rejected:      r.Rejected,
		Status:        rollout.Status{Hash: r.LastKnownGood.Hash, State: rollout.StatusApplying},
	}
	require.NoError(t, agent.Save(path, trial))
	return readFolder(t, path)
}

// Every state file, truncated at every offset and with a bit flipped in each
// byte: the agent starts, on something whole, and says what it lost.
func TestEveryDamageOfEveryFile(t *testing.T) {
	t.Parallel()
	idle := realRun(t)
	for state, intact := range map[string]folder{"idle": idle, "in trial": triggered(t, idle)} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			path := fastFolder(t)
			intact.write(t, path)
			whole, notes, err := agent.Load(path, "boot")
			require.NoError(t, err)
			require.Empty(t, notes)
			for name, content := range intact {
				for i := range content {
					if testing.Short() && i%16 != 0 {
						continue
					}
					flipped := slices.Clone(content)
					flipped[i] ^= 1 << (i % 8)
					for kind, damaged := range map[string][]byte{"truncated": content[:i], "flipped": flipped} {
						about := fmt.Sprintf("%q %s at %d", name, kind, i)
						intact.write(t, path)
						require.NoError(t, os.WriteFile(filepath.Join(path, name), damaged, 0o600))
						r, notes, err := agent.Load(path, "boot")
						require.NoError(t, err, about)
						requireUsable(t, path, r, about)
						requireOutcome(t, name, r, whole, notes, about)
						if name == "lock" || name == "crash" || name == "state.json" {
							_, err := process.Crash(filepath.Join(path, "crash"))
							require.NoError(t, err, about)
							continue
						}
						aside, err := os.ReadFile(filepath.Join(path, name+".corrupt.1"))
						require.NoError(t, err, about)
						require.Equal(t, damaged, aside, "%s: it is kept as it was", about)
						if i%8 != 0 {
							continue
						}
						// The next start finds nothing more to say, unless the
						// record was not written meanwhile.
						again, notes, err := agent.Load(path, "boot")
						require.NoError(t, err, about)
						if name != "rollout" && !strings.HasPrefix(name, "bodies/") {
							require.Empty(t, notes, about)
						}
						require.Equal(t, r, again, about)
					}
				}
			}
		})
	}
}

// requireOutcome looks at what is left of whole when the file name is damaged.
func requireOutcome(t *testing.T, name string, r, whole rollout.Record, notes []string, about string) {
	t.Helper()
	said := strings.Join(notes, "\n")
	want := whole
	switch name {
	case "lock", "crash", "state.json":
		require.Empty(t, notes, about)
	case "rollout":
		require.Contains(t, said, "the rollout's record is damaged; using its previous generation", about)
		require.False(t, r.LastKnownGood.IsZero(), about)
		require.Nil(t, r.Candidate, about)
		return
	case "rollout.previous":
		require.Contains(t, said, "the previous generation of the rollout's record is lost", about)
	case "instance_uid":
		require.Contains(t, said, "the saved instance UID is lost", about)
	case "rollout_times":
		require.Contains(t, said, "the durations of a rollout are lost", about)
	case "required_extensions":
		require.Contains(t, said, "the list of required extensions is lost", about)
	case "safe_mode":
		require.Contains(t, said, "the configuration for safe mode is lost", about)
	case "bodies/" + whole.LastKnownGood.Digest:
		require.Contains(t, said, "the last known good "+whole.LastKnownGood.String()+" is lost", about)
		want.LastKnownGood, want.Status = rollout.Record{}.LastKnownGood, rollout.Status{}
		if len(whole.Earlier) > 0 {
			want.LastKnownGood, want.Earlier = whole.Earlier[0], whole.Earlier[1:]
		}
		require.Contains(t, said, "falling back to "+want.LastKnownGood.String(), about)
	default:
		if whole.Candidate != nil {
			require.Contains(t, said, "the candidate "+whole.Candidate.Ref.String()+" is lost", about)
			want.Candidate, want.Status = nil, rollout.Status{}
			break
		}
		require.Contains(t, said, "the earlier known good "+whole.Earlier[0].String()+" is lost", about)
		want.Earlier = whole.Earlier[1:]
	}
	require.Equal(t, want, r, about)
}

// Both generations of the record are damaged, and there is nothing else: nothing of
// what is in the folder is run.
func TestBothGenerationsDamaged(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	path := fastFolder(t)
	f["rollout"], f["rollout.previous"] = []byte("x"), nil
	for name, shown := range map[string][]byte{"missing": nil, "damaged": f["state.json"][:len(f["state.json"])/2], "no object": []byte("[]"), "empty object": []byte("{}")} {
		if f["state.json"] = shown; shown == nil {
			delete(f, "state.json")
		}
		f.write(t, path)
		r, notes, err := agent.Load(path, "boot")
		require.NoError(t, err, name)
		assert.Equal(t, rollout.Record{}, r, name)
		require.Len(t, notes, 4, name)
		assert.Contains(t, notes[0], "the rollout's record is lost, with all that was accepted and rejected; starting on the local configuration")
		assert.Contains(t, notes[1], `kept as "rollout.corrupt.1"`)
		assert.Contains(t, notes[2], "its previous generation is lost")
		assert.Contains(t, notes[3], `kept as "rollout.previous.corrupt.1"`)
	}
}

// withoutRecord returns the folder without a generation of the record that can be
// read, and with another state file.
func (f folder) withoutRecord(t *testing.T, change func(shown map[string]any)) folder {
	t.Helper()
	var shown map[string]any
	require.NoError(t, json.Unmarshal(f["state.json"], &shown))
	change(shown)
	data, err := json.Marshal(shown)
	require.NoError(t, err)
	f = maps.Clone(f)
	f["rollout"], f["rollout.previous"], f["state.json"] = []byte("x"), nil, data
	return f
}

// Both generations of the record are damaged: what an operator was shown tells what
// ran, and what was rejected after it had been tried.
func TestBothGenerationsDamagedAndTheStateFileIsNot(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	whole := f.record(t)
	digest := strings.Repeat("ab", 32)
	tried := rollout.Rejection{Ref: remoteconfig.Ref{Hash: "6834", Digest: digest}, Reason: "it did not start"}
	dryRun := rollout.Rejection{Ref: remoteconfig.Ref{Hash: "6835", Digest: digest}, Reason: "the dry run failed", Context: "c"}
	path := fastFolder(t)
	load := func(f folder) (rollout.Record, string) {
		f.write(t, path)
		r, notes, err := agent.Load(path, "boot")
		require.NoError(t, err)
		requireUsable(t, path, r, "")
		return r, strings.Join(notes, "\n")
	}
	rejected := func(shown map[string]any) {
		shown["rejected"] = []rollout.Rejection{
			dryRun,
			tried,
			{Ref: remoteconfig.Ref{Hash: "6836", Digest: "../rollout"}},
			{Ref: remoteconfig.Ref{Hash: "not hexadecimal", Digest: digest}},
		}
	}
	want := rollout.Record{LastKnownGood: whole.LastKnownGood, Earlier: whole.Earlier, Rejected: []rollout.Rejection{tried}}

	r, said := load(f.withoutRecord(t, rejected))
	assert.Equal(t, want, r)
	assert.Contains(t, said, `the rollout's record is lost, taking what "state.json" says: the last known good 6832, and 1 rejected after they were tried: `)
	assert.Contains(t, said, "its previous generation is lost")

	// A candidate may have been rejected in what was lost, as with the previous
	// generation.
	candidate := remoteconfig.Ref{Hash: "6837", Digest: strings.Repeat("cd", 32)}
	r, _ = load(f.withoutRecord(t, func(shown map[string]any) {
		rejected(shown)
		shown["candidate"] = rollout.Candidate{Ref: candidate, Phase: rollout.PhaseStarted, BootID: "boot"}
	}))
	assert.Nil(t, r.Candidate)
	require.Len(t, r.Rejected, 2)
	assert.Equal(t, candidate, r.Rejected[0].Ref)
	assert.Equal(t, rollout.StatusFailed, r.Status.State)

	// A body that is not what it was is not run.
	damaged := f.withoutRecord(t, rejected)
	damaged["bodies/"+whole.LastKnownGood.Digest] = []byte("x")
	r, said = load(damaged)
	assert.Equal(t, rollout.Record{LastKnownGood: whole.Earlier[0], Earlier: []remoteconfig.Ref{}, Rejected: want.Rejected}, r)
	assert.Contains(t, said, "the last known good 6832 is lost; falling back to 6831")

	// References that are none are not followed.
	r, _ = load(f.withoutRecord(t, func(shown map[string]any) {
		shown["last_known_good"] = remoteconfig.Ref{Hash: "6832", Digest: "../rollout"}
		shown["candidate"] = rollout.Candidate{Ref: remoteconfig.Ref{Hash: "6837", Digest: "x"}}
	}))
	assert.Equal(t, rollout.Record{}, rollout.Record{LastKnownGood: r.LastKnownGood, Candidate: r.Candidate, Status: r.Status})
	assert.Empty(t, r.Rejected)
}

// Whatever the state file says when nothing else is there, what is run is whole.
func TestEveryDamageOfTheStateFileWithoutARecord(t *testing.T) {
	t.Parallel()
	intact := realRun(t).withoutRecord(t, func(map[string]any) {})
	path := fastFolder(t)
	taken := 0
	for i, content := 0, intact["state.json"]; i < len(content); i++ {
		if testing.Short() && i%16 != 0 {
			continue
		}
		flipped := slices.Clone(content)
		flipped[i] ^= 1 << (i % 8)
		for _, damaged := range [][]byte{content[:i], flipped} {
			intact["state.json"] = damaged
			intact.write(t, path)
			r, _, err := agent.Load(path, "boot")
			require.NoError(t, err, i)
			requireUsable(t, path, r, strconv.Itoa(i))
			if !r.LastKnownGood.IsZero() {
				taken++
			}
		}
	}
	assert.Positive(t, taken)
}

// The previous generation holds a candidate, and the record that was lost said
// what became of it. It may have been rejected, so that it is not run again,
// not when the server offers it once more either.
func TestCandidateOfThePreviousGenerationIsNotRun(t *testing.T) {
	t.Parallel()
	idle := realRun(t)
	for _, phase := range []rollout.Phase{rollout.PhasePending, rollout.PhaseTriggered, rollout.PhaseRetrieved, rollout.PhaseStarted, rollout.PhaseReady} {
		path := fastFolder(t)
		trial := triggered(t, idle)
		trial.write(t, path)
		r := trial.record(t)
		candidate := r.Candidate.Ref
		r.Candidate.Phase = phase
		r.Ladder = rollout.Ladder{Starting: true, BootID: "boot"}
		require.NoError(t, agent.Save(path, r))
		require.NoError(t, agent.Save(path, r))
		for _, damage := range []func(string) error{
			func(file string) error { return os.Truncate(file, 40) },
			os.RemoveAll, // a crash after the damaged one was moved aside
		} {
			require.NoError(t, damage(filepath.Join(path, "rollout")))
			peeked, _, err := agent.LoadReadOnly(path)
			require.NoError(t, err)
			assert.Equal(t, r.LastKnownGood, peeked.Serves(false))

			got, notes, err := agent.Load(path, "boot")
			require.NoError(t, err)
			assert.Contains(t, strings.Join(notes, "\n"), "using its previous generation")
			assert.Nil(t, got.Candidate)
			assert.Equal(t, r.LastKnownGood, got.LastKnownGood)
			assert.Equal(t, rollout.StatusFailed, got.Status.State)
			assert.Equal(t, candidate.Hash, got.Status.Hash)
			assert.Equal(t, "the record of what became of this configuration was damaged; to try it again, offer it under another hash"+
				"; running last known good "+r.LastKnownGood.String(), got.Status.Message)

			m := rollout.New()
			m.Step(rollout.Booted{Record: got, BootID: "boot"})
			effects := append(m.Step(rollout.Retrieve{}), m.Step(rollout.Started{})...)
			effects = append(effects, m.Step(rollout.Ready{Generation: m.Generation()})...)
			effects = append(effects, m.Step(rollout.Offered{Ref: candidate})...)
			for _, e := range effects {
				switch e := e.(type) {
				case rollout.Serve:
					assert.Equal(t, r.LastKnownGood, e.Ref)
					assert.Zero(t, e.Failures)
				case rollout.Check, rollout.Trigger:
					t.Errorf("the candidate is tried again: %#v", e)
				}
			}
			again := candidate
			again.Hash = "00"
			effects = m.Step(rollout.Offered{Ref: again})
			assert.Contains(t, effects, rollout.Check{Ref: again}, "another hash is another try")
		}
	}
}

// A process died in the trial of a candidate whose body is damaged: the verdict
// needs no body.
func TestTrialThatKilledTheProcessIsRejectedWithoutItsBody(t *testing.T) {
	t.Parallel()
	trial := triggered(t, realRun(t))
	r := trial.record(t)
	for _, tt := range []struct {
		phase    rollout.Phase
		bootID   string
		rejected bool
	}{
		{rollout.PhaseReady, "boot", true},
		{rollout.PhaseRetrieved, "boot", true},
		{rollout.PhaseTriggered, "boot", false},
		{rollout.PhaseReady, "another boot", false},
	} {
		path := fastFolder(t)
		trial.write(t, path)
		r.Candidate.Phase, r.Candidate.Evidence = tt.phase, "exporter x: forbidden"
		require.NoError(t, agent.Save(path, r))
		require.NoError(t, os.Truncate(filepath.Join(path, "bodies", r.Candidate.Ref.Digest), 50))
		got, _, err := agent.Load(path, tt.bootID)
		require.NoError(t, err)
		assert.Nil(t, got.Candidate)
		if !tt.rejected {
			assert.Equal(t, rollout.Status{}, got.Status, "the server offers it again")
			assert.Equal(t, r.Rejected, got.Rejected)
			continue
		}
		assert.Equal(t, r.Candidate.Ref, got.Rejected[0].Ref)
		assert.Contains(t, got.Status.Message, "in trial (phase "+string(tt.phase)+"), and its body was lost; before that: exporter x: forbidden; running last known good")
	}
}

// Somebody put links where the files belong. What they name has the right
// content, so that following them would show nothing but for what is written.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	intact := triggered(t, realRun(t))
	intact["bodies"] = []byte{} // the folder itself
	for name, content := range intact {
		elsewhere := t.TempDir()
		outside := filepath.Join(elsewhere, "outside")
		require.NoError(t, os.WriteFile(outside, content, 0o600))
		want := folder{"outside": content}
		target := outside
		path := fastFolder(t)
		files := folder{}
		for n, c := range intact {
			if n != "bodies" {
				files[n] = c
			}
		}
		files.write(t, path)
		if name == "bodies" {
			target = elsewhere
			for n, c := range files {
				if base, ok := strings.CutPrefix(n, "bodies/"); ok {
					want[base] = c
					require.NoError(t, os.WriteFile(filepath.Join(elsewhere, base), c, 0o600))
				}
			}
		}
		require.NoError(t, os.RemoveAll(filepath.Join(path, name)))
		require.NoError(t, os.Symlink(target, filepath.Join(path, name)))
		r, notes, err := agent.Load(path, "boot")
		switch name {
		case "lock":
			require.ErrorContains(t, err, "is not a regular file: remove it")
		case "crash":
			require.NoError(t, err)
			_, err := process.Crash(filepath.Join(path, name))
			require.ErrorContains(t, err, "is not a regular file")
		case "state.json": // it is replaced, and nothing is lost that is not shown
			require.NoError(t, err)
			require.Empty(t, notes)
		default:
			require.NoError(t, err, name)
			require.NotEmpty(t, notes, name)
			requireUsable(t, path, r, name)
			require.NoError(t, agent.Save(path, r))
		}

		// A whole run on it.
		parent := filepath.Dir(path)
		require.NoError(t, os.Rename(path, filepath.Join(parent, "opamp."+filepath.Base(parent))))
		p, err := agent.AcquireProvider(t.Context(), filepath.Base(parent), parent, zap.NewNop())
		require.NoError(t, err, name)
		answer, err := p.Retrieve(t.Context(), false, func() {})
		require.NoError(t, err)
		require.NoError(t, answer.Done(t.Context()))
		require.NoError(t, p.Release(t.Context()))

		assert.Equal(t, want, readFolder(t, elsewhere), name)
	}
}

// A record of a later version of this program must survive this one.
func TestRecordOfALaterVersionIsLeftAlone(t *testing.T) {
	t.Parallel()
	f := realRun(t)
	parent := t.TempDir()
	path, err := statedir.Locate(parent, t.Name())
	require.NoError(t, err)
	header := "otelcol-opamp-state 2 sha256 "
	f["rollout"] = fmt.Appendf(nil, "%s%x\nlater", header, sha256.Sum256([]byte(header+"later")))
	f.write(t, path)
	core, logged := observer.New(zap.WarnLevel)
	p, err := agent.AcquireProvider(t.Context(), t.Name(), parent, zap.New(core))
	require.NoError(t, err)
	answer, err := p.Retrieve(t.Context(), false, func() {})
	require.NoError(t, err)
	assert.Empty(t, answer.Conf)
	assert.Contains(t, p.RemoteConfigOff(), "the state folder cannot be used: ")
	assert.Contains(t, p.RemoteConfigOff(), "written by a later version of this program")
	require.NoError(t, answer.Done(t.Context()))
	require.NoError(t, p.Release(t.Context()))
	require.Len(t, logged.FilterMessageSnippet("the state folder cannot be used").All(), 1)
	left := readFolder(t, path)
	delete(left, "lock")
	delete(f, "lock")
	assert.Equal(t, f, left, "nothing was written")
}

func TestFolderInMemoryIsWarnedOf(t *testing.T) {
	t.Parallel()
	parent := filepath.Dir(fastFolder(t))
	if statedir.Volatile(parent) == "" {
		t.Skip("there is no folder in memory here")
	}
	for dir, want := range map[string]int{parent: 1, t.TempDir(): 0} {
		if want == 0 && statedir.Volatile(dir) != "" {
			continue // everything is in memory here
		}
		core, logged := observer.New(zap.WarnLevel)
		p, err := agent.AcquireProvider(t.Context(), t.Name(), dir, zap.New(core))
		require.NoError(t, err)
		require.NoError(t, p.Release(t.Context()))
		warnings := logged.FilterMessageSnippet("The state folder does not last").All()
		require.Len(t, warnings, want, dir)
		if want > 0 {
			assert.Contains(t, warnings[0].Message, "StateDirectory=")
			assert.Equal(t, "it is in memory (tmpfs)", warnings[0].ContextMap()["reason"])
		}
	}
}

// FuzzLoad: whatever a record says whose checksum is right, the agent starts, and
// serves nothing but a configuration that is there and whole.
func FuzzLoad(f *testing.F) {
	const header = "otelcol-opamp-state 1 sha256 "
	sealed := func(data []byte) []byte { return fmt.Appendf(nil, "%s%x\n%s", header, sha256.Sum256(data), data) }
	offer := remoteconfig.NewOffer([]byte{1}, []remoteconfig.File{{Body: []byte("receivers: {a: {}}")}})
	body, err := offer.Encode()
	require.NoError(f, err)
	digest := offer.Ref().Digest
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `{"last_known_good": 1}`,
		`{"last_known_good": {"hash": "01", "digest": "DIGEST"}, "status": {"hash": "01", "state": "applied"}}`,
		`{"last_known_good": {"hash": "01", "digest": "../rollout"}, "earlier": [{"hash": "01", "digest": "DIGEST"}, {"hash": "", "digest": ""}], "status": {}}`,
		`{"candidate": {"ref": {"hash": "01", "digest": "DIGEST"}, "phase": "ready", "boot_id": "boot", "evidence": "x"}, "status": {"state": "applying"}}`,
		`{"candidate": {"ref": {"hash": "01", "digest": "DIGEST"}, "phase": "pending"}, "last_known_good": {"hash": "02", "digest": "DIGEST"}}`,
		`{"candidate": {"ref": {"hash": "01", "digest": ".."}, "phase": "nonsense", "resumed": -1}}`,
		`{"ladder": {"failures": -9223372036854775808, "starting": true, "boot_id": "boot"}, "rejected": [{"ref": {}, "reason": "", "context": ""}]}`,
		`{"candidate": {"ref": {"hash": "", "digest": ""}, "settings": "02", "phase": "ready"}, "last_known_good": {"hash": "", "digest": "", "values": "v"}, "earlier": [{"hash": "01", "digest": "DIGEST", "values": "u"}]}`,
		`{"ladder": {"failures": 9223372036854775807, "starting": true, "boot_id": "boot"}, "last_known_good": {"hash": "01", "digest": "DIGEST"}}`,
	} {
		f.Add([]byte(strings.ReplaceAll(seed, "DIGEST", digest)), false)
		f.Add([]byte(strings.ReplaceAll(seed, "DIGEST", digest)), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, previous bool) {
		path := fastFolder(t)
		name := "rollout"
		if previous {
			name = "rollout.previous"
		}
		folder{name: sealed(data), "bodies/" + digest: sealed(body)}.write(t, path)
		r, _, err := agent.LoadReadOnly(path)
		require.NoError(t, err)
		requireUsable(t, path, r, string(data))
		require.False(t, previous && r.Candidate != nil)
		m := rollout.New()
		effects := m.Step(rollout.Booted{Record: r, BootID: "boot"})
		effects = append(effects, m.Step(rollout.Retrieve{})...)
		for _, e := range effects {
			if serve, ok := e.(rollout.Serve); ok && serve.Ref.Hash+serve.Ref.Digest != "" {
				require.NoError(t, agent.Body(path, serve.Ref.Digest))
			}
		}
	})
}

// Values need no body of a remote configuration: one that is not there is not lost.
func TestValuesWithoutARemoteConfigurationNeedNoBody(t *testing.T) {
	t.Parallel()
	one := connsettings.Values{Others: map[string]connsettings.Destination{"a": {Endpoint: "https://a"}}}
	other := connsettings.Values{Others: map[string]connsettings.Destination{"b": {Endpoint: "https://b"}}}
	v, u := one.Digest(), other.Digest()
	for _, r := range []rollout.Record{
		{LastKnownGood: remoteconfig.Ref{Values: v}, Earlier: []remoteconfig.Ref{{Values: u}}},
		{Candidate: &rollout.Candidate{Ref: remoteconfig.Ref{Values: v}, Settings: "01", Phase: rollout.PhasePending}},
		{Candidate: &rollout.Candidate{Settings: "01", Phase: rollout.PhasePending}, LastKnownGood: remoteconfig.Ref{Values: v}},
	} {
		path := fastFolder(t)
		require.NoError(t, agent.Save(path, r))
		require.NoError(t, agent.SaveValues(path, one, other))
		got, notes, err := agent.Load(path, "boot")
		require.NoError(t, err)
		assert.Empty(t, notes)
		assert.Equal(t, r, got)
	}
}

// The values of a candidate were tried with a body that is damaged by now: what the
// server is told of the settings is forgotten with it, and nothing else.
func TestSettingsWhoseBodyIsLostAreOfferedAgain(t *testing.T) {
	t.Parallel()
	trial := triggered(t, realRun(t))
	r := trial.record(t)
	r.Candidate.Settings, r.Candidate.Phase = "01", rollout.PhaseTriggered
	r.Settings = rollout.Status{Hash: "01", State: rollout.StatusApplying}
	path := fastFolder(t)
	trial.write(t, path)
	require.NoError(t, agent.Save(path, r))
	require.NoError(t, os.Truncate(filepath.Join(path, "bodies", r.Candidate.Ref.Digest), 50))
	got, _, err := agent.Load(path, "boot")
	require.NoError(t, err)
	assert.Nil(t, got.Candidate)
	assert.Equal(t, rollout.Status{}, got.Settings)
	assert.Equal(t, r.Status, got.Status)
}
