package statedir

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzUnseal: whatever is on disk is the content that was sealed, damage, or a
// later version's.
func FuzzUnseal(f *testing.F) {
	f.Add([]byte(""))
	f.Add(seal(nil))
	f.Add(seal([]byte("content\nof two lines")))
	f.Add([]byte(header + "\nx"))
	f.Add([]byte(header))
	const later = magic + "2" + algorithm
	f.Add(fmt.Appendf(nil, "%s%x\nx", later, sha256.Sum256([]byte(later+"x"))))
	f.Add(fmt.Appendf(nil, "%s%x\nx", later, sha256.Sum256([]byte("x"))))
	const huge = magic + "99999999999999999999" + algorithm
	f.Add(fmt.Appendf(nil, "%s%x\nx", huge, sha256.Sum256([]byte(huge+"x"))))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		data, err := unseal(sealed)
		switch {
		case err == nil:
			assert.Equal(t, string(seal(data)), string(sealed))
		case errors.Is(err, ErrVersion):
			require.NotErrorIs(t, err, ErrCorrupt)
		default:
			require.ErrorIs(t, err, ErrCorrupt)
		}
	})
}
