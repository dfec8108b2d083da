package blobs3

import "github.com/minio/minio-go/v7/pkg/credentials"

func static(key, secret string) *credentials.Credentials {
	return credentials.NewStaticV4(key, secret, "")
}
