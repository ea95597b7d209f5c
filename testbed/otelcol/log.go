package otelcol

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// tailLines is how much of the log an error shows.
	tailLines = 40
	// maxLine splits lines that are longer, in bytes: a panic of a large process
	// has long ones, but nothing useful is longer than this.
	maxLine = 1 << 20
	// lineOverhead is what a line costs beside its text, in bytes.
	lineOverhead = 64
)

// errEnded is the error of a wait for a line that can no longer come.
var errEnded = errors.New("the process ended")

// Line is one line of output.
type Line struct {
	// Index counts the lines from 0.
	Index int
	// Time is when the line was read.
	Time time.Time
	// Text has no line break.
	Text string
}

// logBuffer keeps the latest lines.
type logBuffer struct {
	copyTo io.Writer // may be nil
	keep   int       // bytes

	mu sync.Mutex
	// mu guards everything below.
	lines   []Line
	first   int // index of lines[0]
	bytes   int
	ended   bool
	changed chan struct{} // closed and replaced at each change
}

func newLogBuffer(copyTo io.Writer, keep int) *logBuffer {
	return &logBuffer{copyTo: copyTo, keep: keep, changed: make(chan struct{})}
}

// readFrom takes in lines until r ends.
func (b *logBuffer) readFrom(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		// Too long a line comes in pieces: each is taken for a line.
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		text := string(line)
		if b.copyTo != nil {
			_, _ = io.WriteString(b.copyTo, text+"\n") // a convenience: its failure must not stop the reading
		}
		b.add(text)
	}
}

func (b *logBuffer) add(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, Line{Index: b.first + len(b.lines), Time: time.Now(), Text: text})
	b.bytes += len(text) + lineOverhead
	for b.bytes > b.keep && len(b.lines) > 1 {
		b.bytes -= len(b.lines[0].Text) + lineOverhead
		// Reslicing is enough: append moves the rest when the array is full.
		b.lines[0] = Line{}
		b.lines = b.lines[1:]
		b.first++
	}
	b.notifyLocked()
}

// end says that no line will follow.
func (b *logBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.notifyLocked()
}

func (b *logBuffer) notifyLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *logBuffer) mark() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.first + len(b.lines)
}

// from returns the lines with this index and later. They must not be modified.
func (b *logBuffer) from(index int) []Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fromLocked(index)
}

func (b *logBuffer) fromLocked(index int) []Line {
	i := min(max(index-b.first, 0), len(b.lines))
	return append([]Line(nil), b.lines[i:]...)
}

func (b *logBuffer) text() string {
	var s strings.Builder
	for _, line := range b.from(0) {
		s.WriteString(line.Text)
		s.WriteByte('\n')
	}
	return s.String()
}

// tail renders the last lines for an error.
func (b *logBuffer) tail() string {
	lines := b.from(b.mark() - tailLines)
	var s strings.Builder
	s.WriteString("last " + strconv.Itoa(len(lines)) + " lines of output:")
	for _, line := range lines {
		s.WriteString("\n  ")
		s.WriteString(line.Text)
	}
	return s.String()
}

// wait returns the first line with index from or later that contains text.
func (b *logBuffer) wait(ctx context.Context, from int, text string) (Line, error) {
	for {
		b.mu.Lock()
		lines, changed, ended := b.fromLocked(from), b.changed, b.ended
		b.mu.Unlock()
		for _, line := range lines {
			from = line.Index + 1
			if strings.Contains(line.Text, text) {
				return line, nil
			}
		}
		if ended {
			return Line{}, errEnded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, context.Cause(ctx)
		}
	}
}
